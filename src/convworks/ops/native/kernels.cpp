// Batch norm with ReLU, GELU and a residual addition, max pooling, local response norm: forward and backward, in C.
//
// Tensors are channels_last: rows of C channels, M = N*H*W rows, without gaps. Pixels are float32 or bfloat16,
// everything else is float32 or float64. There is one fixed partition into blocks of rows, which depends on the
// shape alone, and sums are added in the order of the blocks: the bits do not depend on the number of threads.
// Compile without fast-math and with -ffp-contract=off: backward recomputes the sign that forward decided.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>
#include "threads.h"
#include "vectors.h"
#include "max_pool.h"
#include "half_pool.h"

Parallel parallel_region = nullptr;
int (*number_of_thread)() = nullptr;

namespace {

constexpr int kTile = 4;              // vectors of one tile of columns, held in registers
constexpr int64_t kChunk = 16384;     // values that are summed in float32 before they go to float64
constexpr int64_t kBlocks = 256;      // at most so many partial sums

// --- how rows of C channels become wide rows of whole vectors ------------------------------------------------

struct Plan {
  int64_t C, k, W, wide, rest, chunk, per_block, blocks;  // wide rows of W = C*k lanes; `rest` plain rows are left
  Plan(int64_t M, int64_t C_) : C(C_) {
    k = kLanes / std::gcd(C, int64_t(kLanes));
    while (C * k < kLanes * kTile) k *= 2;
    W = C * k; wide = M / k; rest = M % k;
    chunk = kChunk / W; if (chunk < 8) chunk = 8;  // wide rows
    per_block = (wide + kBlocks - 1) / kBlocks;
    if (per_block < chunk) per_block = chunk;
    blocks = wide ? (wide + per_block - 1) / per_block : 0;
    if (blocks == 0) blocks = 1;
  }
  int64_t begin(int64_t b) const { return b * per_block < wide ? b * per_block : wide; }
  int64_t end(int64_t b) const { return begin(b + 1); }
  int threads(int wanted) const { return wide * W < kAlone ? 1 : wanted; }
  std::vector<float> repeated(const float* v) const {
    std::vector<float> r(W);
    for (int64_t i = 0; i < W; ++i) r[i] = v[i % C];
    return r;
  }
};

// Two sums for each channel. `term(p, j, n, a, b)` adds those of n vectors at pixel offset p, column j.
// The partial sums of a block are in float64; blocks are added in their order.
template <class Vector, class Scalar>
void two_sums(const Plan& plan, int threads, double* first, double* second, Vector&& vector, Scalar&& scalar) {
  const int64_t C = plan.C, W = plan.W;
  std::vector<double> partial(size_t(plan.blocks) * 2 * C);
  over_blocks(plan.blocks, plan.threads(threads), [&](int64_t b0, int64_t b1) {
    std::vector<double> sums(2 * W);
    const auto at = vector;  // a copy, so that its pointers stay in registers
    for (int64_t b = b0; b < b1; ++b) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t r0 = plan.begin(b); r0 < plan.end(b); r0 += plan.chunk) {
        const int64_t r1 = r0 + plan.chunk < plan.end(b) ? r0 + plan.chunk : plan.end(b);
        int64_t j = 0;
        auto flush = [&](const vf& s, const vf& q, int64_t from) {
          for (int l = 0; l < kLanes; ++l) { sums[from + l] += s[l]; sums[W + from + l] += q[l]; }
        };
        for (; j + kTile * kLanes <= W; j += kTile * kLanes) {
          vf s0{}, s1{}, s2{}, s3{}, q0{}, q1{}, q2{}, q3{};
          for (int64_t r = r0; r < r1; ++r) {
            const int64_t p = r * W + j;
            at(p, j, s0, q0); at(p + kLanes, j + kLanes, s1, q1);
            at(p + 2 * kLanes, j + 2 * kLanes, s2, q2); at(p + 3 * kLanes, j + 3 * kLanes, s3, q3);
          }
          flush(s0, q0, j); flush(s1, q1, j + kLanes);
          flush(s2, q2, j + 2 * kLanes); flush(s3, q3, j + 3 * kLanes);
        }
        for (; j < W; j += kLanes) {
          vf s{}, q{};
          for (int64_t r = r0; r < r1; ++r) at(r * W + j, j, s, q);
          flush(s, q, j);
        }
      }
      double* to = &partial[size_t(b) * 2 * C];
      for (int64_t i = 0; i < W; ++i) { to[i % C] += sums[i]; to[C + i % C] += sums[W + i]; }
    }
  });
  for (int64_t c = 0; c < C; ++c) first[c] = second[c] = 0;
  for (int64_t b = 0; b < plan.blocks; ++b)
    for (int64_t c = 0; c < C; ++c) {
      first[c] += partial[size_t(b) * 2 * C + c];
      second[c] += partial[size_t(b) * 2 * C + C + c];
    }
  for (int64_t i = plan.wide * W; i < plan.wide * W + plan.rest * C; ++i) scalar(i, i % C, first[i % C], second[i % C]);
}

template <class Vector, class Scalar>
void each_value(const Plan& plan, int threads, Vector&& vector, Scalar&& scalar) {
  const int64_t W = plan.W;
  over_blocks(plan.blocks, plan.threads(threads), [&](int64_t b0, int64_t b1) {
    const auto at = vector;  // a copy, so that its pointers stay in registers
    const int64_t width = W;
    for (int64_t b = b1; b-- > b0;) {  // backwards: what the sums read last is still in the caches
      const int64_t first = plan.begin(b);
      for (int64_t r = plan.end(b); r-- > first;)
        for (int64_t j = 0; j < width; j += kLanes) at(r * width + j, j);
    }
  }, 8, true);
  for (int64_t i = plan.wide * W; i < plan.wide * W + plan.rest * plan.C; ++i) scalar(i, i % plan.C);
}

void affine(int64_t C, const float* weight, const float* bias, const float* mean, const float* invstd,
            std::vector<float>& scale, std::vector<float>& shift) {  // z = scale x + shift
  scale.resize(C); shift.resize(C);
  for (int64_t c = 0; c < C; ++c) {
    scale[c] = (weight ? weight[c] : 1.0f) * invstd[c];
    shift[c] = (bias ? bias[c] : 0.0f) - mean[c] * scale[c];
  }
}

// --- activations --------------------------------------------------------------------------------------------

enum Activation { kIdentity, kRelu, kGelu };

template <int N> inline vf polynomial(const float (&c)[N], vf x) {  // c[0] is of the highest power
  vf sum = all(c[0]);
  for (int i = 1; i < N; ++i) sum = multiply_add(sum, x, all(c[i]));
  return sum;
}

struct Gaussian { vf density, beyond; };  // exp(-a^2 / 2) / sqrt(2 pi), and its integral from a to infinity

// a from 0 to 12. exp as 2^n 2^f with |f| <= 1/2; the integral as Abramowitz and Stegun 1964, 7.1.26, off by 7.5e-8.
inline Gaussian gaussian(vf a) {
  static const float power[] = {0.00133503752f, 0.0096785076f, 0.0555049707f, 0.240220197f, 0.6931471f, 1.00000014f};
  static const float tail[] = {0.5307027145f, -0.7265760135f, 0.7107068705f, -0.142248368f, 0.127414796f};
  const vf t = a * a * -0.72134752f;  // of 2^t
  const vf shifted = t + 12582912.0f;  // 1.5 2^23: the last bits are t to the nearest whole number
  const vi scale = cast<vi>(shifted) << 23;
  const vf e = cast<vf>(cast<vi>(polynomial(power, t - (shifted - 12582912.0f))) + scale);
  const vf r = 1.0f / multiply_add(a, all(0.23164189f), all(1.0f));
  return {e * 0.39894228f, polynomial(tail, r) * r * e};
}

// z Phi(z) and its derivative Phi(z) + z phi(z), where Phi is the normal distribution. Both are off by less than
// 1e-6 for float32; for bfloat16 polynomials of least error are, by 2e-5 and 5e-5. NaN passes.
template <class T> inline vf gelu(vf z) {
  const vf a = smaller(all(12.0f), magnitude(z));
  return larger(vf{}, z) - a * gaussian(a).beyond;
}
template <class T> inline vf gelu_slope(vf z) {
  const vf a = smaller(all(12.0f), magnitude(z));
  const Gaussian at = gaussian(a);
  const vf below = at.beyond - a * at.density;  // the derivative at -a; that at a is 1 less this
  return 0.5f + cast<vf>(cast<vi>(0.5f - below) | (cast<vi>(z) & int32_t(0x80000000)));
}
template <> inline vf gelu<bf16>(vf z) {
  static const float c[] = {-1.37955221e-05f, 4.98412301e-05f, 0.000163296063f, -0.00104465347f, 0.000867002935f,
                            0.00596426614f,   -0.0225769822f,  0.0383811854f,   -0.0346792452f,  0.0135493428f};
  const vf a = smaller(all(4.42f), magnitude(z));
  return larger(vf{}, z) - a * polynomial(c, a - 2.21f);
}
template <> inline vf gelu_slope<bf16>(vf z) {
  static const float c[] = {-2.4585757e-11f, 5.60266999e-10f, -4.8190234e-09f, 5.32102007e-08f, -9.35370736e-07f,
                            1.11474546e-05f, -0.000102438134f, 0.00091922807f, -0.00935771037f, 0.161889598f};
  const vf a = smaller(all(4.44f), larger(all(-4.44f), z));
  return multiply_add(a, polynomial(c, multiply_add(a, a, all(-9.8568f))), all(0.5f));
}

// The activation of z, and g through it backward; for the last few values one at a time, with the same bits.
template <class T, int ACTIVATION> inline vf activated(vf z) {
  return ACTIVATION == kRelu ? keep_where(active(z), z) : ACTIVATION == kGelu ? gelu<T>(z) : z;
}
template <class T, int ACTIVATION> inline vf backward(vf g, vf z) {
  return ACTIVATION == kRelu ? keep_where(active(z), g) : ACTIVATION == kGelu ? g * gelu_slope<T>(z) : g;
}
template <class T, int ACTIVATION> inline float activated(float z) { return activated<T, ACTIVATION>(all(z))[0]; }
template <class T, int ACTIVATION> inline float backward(float g, float z) {
  return backward<T, ACTIVATION>(all(g), all(z))[0];
}

// --- batch norm ---------------------------------------------------------------------------------------------

template <class T>
void statistics(int64_t M, int64_t C, const T* x, float* mean, float* invstd, float* running_mean,
                float* running_var, double momentum, double eps, int threads) {
  const Plan plan(M, C);
  std::vector<float> origin(C);  // sums are taken about the first row: no cancellation where the mean is large
  for (int64_t c = 0; c < C; ++c) origin[c] = get(x + c);
  const std::vector<float> about = plan.repeated(origin.data());
  const float* o = about.data();
  std::vector<double> sum(C), square(C);
  two_sums(plan, threads, sum.data(), square.data(),
           [=](int64_t p, int64_t j, vf& s, vf& q) { vf d = load(x + p) - load(o + j); s += d; q += d * d; },
           [&](int64_t p, int64_t c, double& s, double& q) { double d = get(x + p) - origin[c]; s += d; q += d * d; });
  for (int64_t c = 0; c < C; ++c) {
    const double d = sum[c] / M, m = origin[c] + d;
    double var = square[c] / M - d * d;
    if (var < 0) var = 0;
    mean[c] = float(m);
    invstd[c] = float(1.0 / std::sqrt(var + eps));
    if (running_mean) {
      running_mean[c] = float((1 - momentum) * running_mean[c] + momentum * m);
      running_var[c] = float((1 - momentum) * running_var[c] + momentum * var * M / (M - 1.0));
    }
  }
}

template <class T, int ACTIVATION, bool RESIDUAL>
void apply(int64_t M, int64_t C, const T* x, const T* residual, const float* weight, const float* bias,
           const float* mean, const float* invstd, T* y, int threads) {
  const Plan plan(M, C);
  std::vector<float> scale, shift;
  affine(C, weight, bias, mean, invstd, scale, shift);
  const std::vector<float> wide_a = plan.repeated(scale.data()), wide_b = plan.repeated(shift.data());
  const float *a = wide_a.data(), *b = wide_b.data(), *a1 = scale.data(), *b1 = shift.data();
  each_value(plan, threads,
             [=](int64_t p, int64_t j) {
               vf z = load(x + p) * load(a + j) + load(b + j);
               if (RESIDUAL) z += load(residual + p);
               store_result(y + p, activated<T, ACTIVATION>(z));
             },
             [=](int64_t p, int64_t c) {
               float z = get(x + p) * a1[c] + b1[c];
               if (RESIDUAL) z += get(residual + p);
               put(y + p, activated<T, ACTIVATION>(z));
             });
}

// The sums of g and g (x - mean), where g is dy behind the activation; with a residual g is written too, and the
// ReLU's sign is that of y. dweight, dbias and the two coefficients of dx come out.
template <class T, int ACTIVATION, bool RESIDUAL>
void gradient_sums(int64_t M, int64_t C, const T* x, const T* dy, const T* y, const float* weight,
                   const float* bias, const float* mean, const float* invstd, T* g_out, double* sum_g,
                   double* sum_gx, int threads) {
  const Plan plan(M, C);
  std::vector<float> scale, shift;
  affine(C, weight, bias, mean, invstd, scale, shift);
  const std::vector<float> wide_a = plan.repeated(scale.data()), wide_b = plan.repeated(shift.data()),
                           wide_m = plan.repeated(mean);
  const float *a = wide_a.data(), *b = wide_b.data(), *m = wide_m.data(), *a1 = scale.data(), *b1 = shift.data();
  two_sums(plan, threads, sum_g, sum_gx,
           [=](int64_t p, int64_t j, vf& s, vf& q) {
             vf g = load(dy + p), v = load(x + p);
             if (ACTIVATION) g = backward<T, ACTIVATION>(g, RESIDUAL ? load(y + p) : v * load(a + j) + load(b + j));
             if (RESIDUAL) store_result(g_out + p, g);
             s += g; q += g * (v - load(m + j));
           },
           [=](int64_t p, int64_t c, double& s, double& q) {
             float g = get(dy + p), v = get(x + p);
             if (ACTIVATION) g = backward<T, ACTIVATION>(g, RESIDUAL ? get(y + p) : v * a1[c] + b1[c]);
             if (RESIDUAL) put(g_out + p, g);
             s += g; q += double(g) * (v - mean[c]);
           });
}

struct Coefficients { std::vector<float> a, b, c; };  // dx = a g + b (x - mean) + c

Coefficients coefficients(int64_t M, int64_t C, const float* weight, const float* invstd, const double* sum_g,
                          const double* sum_gx) {
  Coefficients r{std::vector<float>(C), std::vector<float>(C), std::vector<float>(C)};
  for (int64_t c = 0; c < C; ++c) {
    const double s = invstd[c], a = (weight ? double(weight[c]) : 1.0) * s;
    r.a[c] = float(a); r.b[c] = float(-a * s * s * sum_gx[c] / M); r.c[c] = float(-a * sum_g[c] / M);
  }
  return r;
}

template <class T, int ACTIVATION>
void input_gradient(int64_t M, int64_t C, const T* x, const T* g_in, const float* weight, const float* bias,
                    const float* mean, const float* invstd, const double* sum_g, const double* sum_gx, T* dx,
                    int threads) {
  const Plan plan(M, C);
  std::vector<float> scale, shift;
  affine(C, weight, bias, mean, invstd, scale, shift);
  const Coefficients k = coefficients(M, C, weight, invstd, sum_g, sum_gx);
  const std::vector<float> wa = plan.repeated(k.a.data()), wb = plan.repeated(k.b.data()),
                           wc = plan.repeated(k.c.data()), wm = plan.repeated(mean),
                           ws = plan.repeated(scale.data()), wt = plan.repeated(shift.data());
  const float *a = wa.data(), *b = wb.data(), *c = wc.data(), *m = wm.data(), *s = ws.data(), *t = wt.data();
  each_value(plan, threads,
             [=](int64_t p, int64_t j) {
               vf g = load(g_in + p), v = load(x + p);
               if (ACTIVATION) g = backward<T, ACTIVATION>(g, v * load(s + j) + load(t + j));
               store_result(dx + p, load(a + j) * g + load(b + j) * (v - load(m + j)) + load(c + j));
             },
             [=](int64_t p, int64_t i) {
               float g = get(g_in + p), v = get(x + p);
               if (ACTIVATION) g = backward<T, ACTIVATION>(g, v * s[i] + t[i]);
               put(dx + p, a[i] * g + b[i] * (v - m[i]) + c[i]);
             });
}

// --- local response norm over neighbouring channels ----------------------------------------------------------

inline vf root(vf v) {
#if BYTES == 64
  return cast<vf>(_mm512_sqrt_ps(cast<__m512>(v)));
#elif BYTES == 32
  return cast<vf>(_mm256_sqrt_ps(cast<__m256>(v)));
#else
  vf r; for (int l = 0; l < kLanes; ++l) r[l] = std::sqrt(v[l]);
  return r;
#endif
}
inline vf power(vf s, int quarters) {  // s^(-quarters / 4)
  const vf half = root(s);
  switch (quarters) {
    case 1: return 1.0f / root(half);
    case 2: return 1.0f / half;
    case 3: return 1.0f / (half * root(half));
    default: return 1.0f / s;
  }
}

// b = a s^-beta, s = k + alpha (sum of a^2 over 2 reach + 1 channels), a = x or relu(x), beta = quarters / 4.
// Without dy b is written to `out`, with it dx = dy s^-beta - 2 alpha beta a (sum over j near of dy_j a_j s_j^(-beta-1)).
template <class T, bool RELU, bool BACKWARD>
void response(int64_t M, int64_t C, const T* x, const T* dy, T* out, int reach, float alpha, int quarters, float k,
              int threads) {
  const int64_t blocks = (M * C + kChunk - 1) / kChunk;
  over_blocks(blocks, M * C < kAlone ? 1 : threads, [&](int64_t b0, int64_t b1) {
    const size_t room = size_t(C + 2 * reach + kLanes);  // zeros around, so that the ends have fewer terms
    std::vector<float> squares(room), shares(room), powers(room);
    auto near = [&](const std::vector<float>& v, int64_t c) {
      vf sum = load(&v[c]);
      for (int64_t d = 1; d <= 2 * reach; ++d) sum += load(&v[c + d]);
      return sum;
    };
    auto lanes = [&](int64_t c) { return C - c < kLanes ? C - c : int64_t(kLanes); };
    for (int64_t row = M * b0 / blocks; row < M * b1 / blocks; ++row) {
      const int64_t at = row * C;
      auto input = [&](int64_t c) {
        const vf v = load(x + at + c, lanes(c));
        return RELU ? keep_where(active(v), v) : v;
      };
      for (int64_t c = 0; c < C; c += kLanes) { const vf a = input(c); store(&squares[c + reach], a * a, lanes(c)); }
      for (int64_t c = 0; c < C; c += kLanes) {
        const vf a = input(c), s = k + alpha * near(squares, c), p = power(s, quarters);
        if (!BACKWARD) { store(out + at + c, a * p, lanes(c)); continue; }
        store(&shares[c + reach], load(dy + at + c, lanes(c)) * a * p / s, lanes(c));
        store(&powers[c], p);
      }
      if (!BACKWARD) continue;
      const float factor = -2.0f * alpha * (quarters / 4.0f);
      for (int64_t c = 0; c < C; c += kLanes) {
        const vf v = load(x + at + c, lanes(c));
        vf g = load(dy + at + c, lanes(c)) * load(&powers[c]) + factor * input(c) * near(shares, c);
        if (RELU) g = keep_where(active(v), g);
        store(out + at + c, g, lanes(c));
      }
    }
  });
}

template <class T> int channel_sums(int64_t M, int64_t C, const void* x_, float* out, int threads) {
  const T* x = static_cast<const T*>(x_);
  std::vector<double> sum(C), none(C);
  two_sums(Plan(M, C), threads, sum.data(), none.data(),
           [=](int64_t p, int64_t, vf& s, vf&) { s += load(x + p); },
           [=](int64_t p, int64_t, double& s, double&) { s += get(x + p); });
  for (int64_t c = 0; c < C; ++c) out[c] = float(sum[c]);
  return 0;
}

template <class T>
int response_either(int64_t M, int64_t C, const void* x_, const void* dy_, void* out_, int reach, float alpha,
                    int quarters, float k, int relu, int threads) {
  const T *x = static_cast<const T*>(x_), *dy = static_cast<const T*>(dy_);
  T* out = static_cast<T*>(out_);
  if (dy && relu) response<T, true, true>(M, C, x, dy, out, reach, alpha, quarters, k, threads);
  else if (dy) response<T, false, true>(M, C, x, dy, out, reach, alpha, quarters, k, threads);
  else if (relu) response<T, true, false>(M, C, x, dy, out, reach, alpha, quarters, k, threads);
  else response<T, false, false>(M, C, x, dy, out, reach, alpha, quarters, k, threads);
  return 0;
}

template <class T>
int norm_forward(int64_t M, int64_t C, const void* x, const void* residual, const float* weight, const float* bias,
                 float* running_mean, float* running_var, float* mean, float* invstd, void* y, double momentum,
                 double eps, int activation, int threads) {
  const T *in = static_cast<const T*>(x), *add = static_cast<const T*>(residual);
  T* out = static_cast<T*>(y);
  statistics<T>(M, C, in, mean, invstd, running_mean, running_var, momentum, eps, threads);
  if (!out) return 0;  // a pooling does the rest
  auto write = apply<T, kIdentity, false>;
  if (activation == kRelu) write = add ? apply<T, kRelu, true> : apply<T, kRelu, false>;
  else if (activation == kGelu) write = apply<T, kGelu, false>;
  else if (add) write = apply<T, kIdentity, true>;
  write(M, C, in, add, weight, bias, mean, invstd, out, threads);
  return 0;
}

void parameter_gradients(int64_t C, const float* invstd, const double* sum_g, const double* sum_gx, float* dweight,
                         float* dbias) {
  for (int64_t c = 0; c < C; ++c) { dweight[c] = float(sum_gx[c] * invstd[c]); dbias[c] = float(sum_g[c]); }
}

template <class T>
int norm_backward(int64_t M, int64_t C, const void* x_, const void* dy_, const void* y_, const float* weight,
                  const float* bias, const float* mean, const float* invstd, void* dx_, void* dresidual_,
                  float* dweight, float* dbias, int activation, int threads) {
  const T *x = static_cast<const T*>(x_), *dy = static_cast<const T*>(dy_), *y = static_cast<const T*>(y_);
  T *dx = static_cast<T*>(dx_), *g = static_cast<T*>(dresidual_);
  std::vector<double> sum_g(C), sum_gx(C);
  double *s = sum_g.data(), *q = sum_gx.data();
  auto sums = gradient_sums<T, kIdentity, false>;
  auto gradient = input_gradient<T, kIdentity>;
  if (activation == kRelu && y) sums = gradient_sums<T, kRelu, true>;
  else if (activation == kRelu) { sums = gradient_sums<T, kRelu, false>; gradient = input_gradient<T, kRelu>; }
  else if (activation == kGelu) { sums = gradient_sums<T, kGelu, false>; gradient = input_gradient<T, kGelu>; }
  sums(M, C, x, dy, y, weight, bias, mean, invstd, g, s, q, threads);
  gradient(M, C, x, y ? g : dy, weight, bias, mean, invstd, s, q, dx, threads);
  parameter_gradients(C, invstd, s, q, dweight, dbias);
  return 0;
}

template <class T>
int pooled_forward(const Window& w, const void* x_, const float* weight, const float* bias, const float* mean,
                   const float* invstd, void* y_, uint8_t* place, void* chosen_, int relu, int threads) {
  const T* x = static_cast<const T*>(x_);
  T *y = static_cast<T*>(y_), *chosen = static_cast<T*>(chosen_);
#ifdef PICKS
  if (std::is_same_v<T, bf16> && !mean && in_halves(w)) {
    auto run = relu ? half_pool<true> : half_pool<false>;
    run(w, static_cast<const uint16_t*>(x_), static_cast<uint16_t*>(y_), place, threads);
    return 0;
  }
#endif
  if (mean) {
    std::vector<float> scale, shift;
    affine(w.C, weight, bias, mean, invstd, scale, shift);
    scale.resize(w.C + kLanes); shift.resize(w.C + kLanes);
    if (!relu) return 2;
    MaxPool<T, true, true>{w, x, scale.data(), shift.data(), y, place, chosen}.run(threads);
  } else if (relu) MaxPool<T, true, false>{w, x, nullptr, nullptr, y, place, chosen}.run(threads);
  else MaxPool<T, false, false>{w, x, nullptr, nullptr, y, place, chosen}.run(threads);
  return 0;
}

template <class T>
int pooled_backward(const Window& w, const void* dy_, const uint8_t* place, const void* x_, const void* chosen_,
                    const float* weight, const float* bias, const float* mean, const float* invstd, void* dx_,
                    float* dweight, float* dbias, int threads) {
  const T *dy = static_cast<const T*>(dy_), *x = static_cast<const T*>(x_), *chosen = static_cast<const T*>(chosen_);
  T* dx = static_cast<T*>(dx_);
#ifdef PICKS
  if (std::is_same_v<T, bf16> && !mean && in_halves_backward(w)) {
    half_pool_backward(w, static_cast<const uint16_t*>(dy_), place, static_cast<uint16_t*>(dx_), threads);
    return 0;
  }
#endif
  if (!mean) { MaxPoolGradient<T, false>{w, dy, place, x, nullptr, dx}.run(threads); return 0; }
  std::vector<double> s(w.C), q(w.C);
  gradient_sums<T, kRelu, false>(w.N * w.OH * w.OW, w.C, chosen, dy, nullptr, weight, bias, mean, invstd, nullptr,
                                 s.data(), q.data(), threads);
  const Coefficients k = coefficients(w.N * w.H * w.W, w.C, weight, invstd, s.data(), q.data());
  Padded wide{k.a, k.b, k.c, std::vector<float>(mean, mean + w.C)};
  for (auto* v : {&wide.a, &wide.b, &wide.c, &wide.mean}) v->resize(w.C + kLanes);
  MaxPoolGradient<T, true>{w, dy, place, x, &wide, dx}.run(threads);
  parameter_gradients(w.C, invstd, s.data(), q.data(), dweight, dbias);
  return 0;
}

}  // namespace

extern "C" {

int convworks_interface() { return 6; }

void convworks_threads(void* parallel, void* number) {
  parallel_region = reinterpret_cast<Parallel>(parallel);
  number_of_thread = reinterpret_cast<int (*)()>(number);
}

// `activation` is that of the enum; GELU has no residual.
int convworks_norm_forward(int half, int64_t M, int64_t C, const void* x, const void* residual, const float* weight,
                           const float* bias, float* running_mean, float* running_var, float* mean, float* invstd,
                           void* y, double momentum, double eps, int activation, int threads) {
  auto run = half ? norm_forward<bf16> : norm_forward<float>;
  GUARDED(run(M, C, x, residual, weight, bias, running_mean, running_var, mean, invstd, y, momentum, eps,
              activation, threads))
}

int convworks_norm_backward(int half, int64_t M, int64_t C, const void* x, const void* dy, const void* y,
                            const float* weight, const float* bias, const float* mean, const float* invstd, void* dx,
                            void* dresidual, float* dweight, float* dbias, int activation, int threads) {
  auto run = half ? norm_backward<bf16> : norm_backward<float>;
  GUARDED(run(M, C, x, dy, y, weight, bias, mean, invstd, dx, dresidual, dweight, dbias, activation,
              threads))
}

// `window` is N, H, W, C, OH, OW, then kernel, stride and padding, each along H and W.
int convworks_pool_forward(int half, const int64_t* window, const void* x, const float* weight, const float* bias,
                           const float* mean, const float* invstd, void* y, uint8_t* place, void* chosen, int relu,
                           int threads) {
  Window w; std::memcpy(&w, window, sizeof w);
  auto run = half ? pooled_forward<bf16> : pooled_forward<float>;
  GUARDED(run(w, x, weight, bias, mean, invstd, y, place, chosen, relu, threads))
}

int convworks_pool_backward(int half, const int64_t* window, const void* dy, const uint8_t* place, const void* x,
                            const void* chosen, const float* weight, const float* bias, const float* mean,
                            const float* invstd, void* dx, float* dweight, float* dbias, int threads) {
  Window w; std::memcpy(&w, window, sizeof w);
  auto run = half ? pooled_backward<bf16> : pooled_backward<float>;
  GUARDED(run(w, dy, place, x, chosen, weight, bias, mean, invstd, dx, dweight, dbias, threads))
}

int convworks_channel_sums(int half, int64_t M, int64_t C, const void* x, float* out, int threads) {
  GUARDED(half ? channel_sums<bf16>(M, C, x, out, threads) : channel_sums<float>(M, C, x, out, threads))
}

int convworks_response(int half, int64_t M, int64_t C, const void* x, const void* dy, void* out, int reach,
                       double alpha, int quarters, double k, int relu, int threads) {
  auto run = half ? response_either<bf16> : response_either<float>;
  GUARDED(run(M, C, x, dy, out, reach, float(alpha), quarters, float(k), relu, threads))
}

}  // extern "C"
