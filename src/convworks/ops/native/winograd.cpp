// 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) in bfloat16: forward, and both gradients.
//
// Interpolation points 0, +-sqrt(1/2), +-sqrt(2), infinity.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include "threads.h"
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512BF16__)
#include <immintrin.h>

namespace {

typedef __m512 V;
constexpr int XI = 36, L = 16;
constexpr int64_t kForward = 600000, kWeight = 8000000;  // bytes of workspace
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;
inline V set(float f) { return _mm512_set1_ps(f); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V load16(const uint16_t* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16)); }
inline V mload16(const uint16_t* p, __mmask16 m) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16)); }

inline V mloadf(const float* p, int64_t at, int64_t n) {
  return at >= n ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(__mmask16((1u << std::min<int64_t>(16, n - at)) - 1u), p + at);
}
template <class E> struct Space {  // memory for whole vectors
  E* at;
  explicit Space(int64_t count) : at(static_cast<E*>(std::aligned_alloc(64, (count * sizeof(E) + 63) / 64 * 64))) { if (!at) throw std::bad_alloc(); }
  ~Space() { std::free(at); }
  Space(const Space&) = delete;
  operator E*() const { return at; }
};

// B^T d: six values to six
inline void to_input(V d0, V d1, V d2, V d3, V d4, V d5, V* o, int s) {
  const V e1 = fnma(set(2.f), d2, d4), o1 = fnma(set(2.f), d1, d3);
  const V e2 = fnma(set(.5f), d2, d4), o2 = fnma(set(.5f), d1, d3);
  o[0] = add(fnma(set(2.5f), d2, d4), d0);
  o[s] = fma(set(kA), o1, e1); o[2 * s] = fnma(set(kA), o1, e1);
  o[3 * s] = fma(set(kB), o2, e2); o[4 * s] = fnma(set(kB), o2, e2);
  o[5 * s] = add(fnma(set(2.5f), d3, d5), d1);
}
// A^T m: six to four
inline void to_output(const V* m, int s, V& y0, V& y1, V& y2, V& y3) {
  const V sa = add(m[s], m[2 * s]), da = sub(m[s], m[2 * s]), sb = add(m[3 * s], m[4 * s]), db = sub(m[3 * s], m[4 * s]);
  y0 = add(add(m[0], sa), sb);
  y1 = fma(set(kB), db, _mm512_mul_ps(set(kA), da));
  y2 = fma(set(2.f), sb, _mm512_mul_ps(set(.5f), sa));
  y3 = fma(set(kB * 2), db, fma(set(kA * .5f), da, m[5 * s]));
}
// A y: four to six
inline void from_output(V y0, V y1, V y2, V y3, V* o, int s) {
  const V e1 = fma(set(.5f), y2, y0), o1 = fma(set(.5f), y3, y1), e2 = fma(set(2.f), y2, y0), o2 = fma(set(2.f), y3, y1);
  o[0] = y0; o[s] = fma(set(kA), o1, e1); o[2 * s] = fnma(set(kA), o1, e1);
  o[3 * s] = fma(set(kB), o2, e2); o[4 * s] = fnma(set(kB), o2, e2); o[5 * s] = y3;
}
// G g: three to six. own(0)=1; own(+-a)= a*(2a)*(a^2-2) = 2*.5*(-1.5) = -1.5 ; own(+-b) = 2*2*(1.5)=6... scaled
inline void to_kernel(V g0, V g1, V g2, V* o, int s) {
  const V ea = fma(set(.5f), g2, g0), oa = _mm512_mul_ps(set(kA), g1), eb = fma(set(2.f), g2, g0), ob = _mm512_mul_ps(set(kB), g1);
  const V ca = set(-1.f / 1.5f), cb = set(1.f / 6.f);
  o[0] = g0; o[s] = _mm512_mul_ps(ca, add(ea, oa)); o[2 * s] = _mm512_mul_ps(ca, sub(ea, oa));
  o[3 * s] = _mm512_mul_ps(cb, add(eb, ob)); o[4 * s] = _mm512_mul_ps(cb, sub(eb, ob)); o[5 * s] = g2;
}
// G^T u: six to three
inline void from_kernel(const V* u, int s, V& g0, V& g1, V& g2) {
  const V ca = set(-1.f / 1.5f), cb = set(1.f / 6.f);
  const V sa = _mm512_mul_ps(ca, add(u[s], u[2 * s])), da = _mm512_mul_ps(ca, sub(u[s], u[2 * s]));
  const V sb = _mm512_mul_ps(cb, add(u[3 * s], u[4 * s])), db = _mm512_mul_ps(cb, sub(u[3 * s], u[4 * s]));
  g0 = add(u[0], add(sa, sb));
  g1 = fma(set(kA), da, _mm512_mul_ps(set(kB), db));
  g2 = fma(set(.5f), sa, fma(set(2.f), sb, u[5 * s]));
}

struct Shape { int64_t N, H, W, C, O, OH, OW; int pad; int64_t th, tw, tiles; };
Shape shape(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int pad) {
  Shape s{N, H, W, C, O, H + 2 * pad - 2, W + 2 * pad - 2, pad, 0, 0, 0};
  s.th = (s.OH + 3) / 4; s.tw = (s.OW + 3) / 4; s.tiles = N * s.th * s.tw; return s;
}
inline int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
alignas(64) const uint16_t zeros[8192] = {};

template <int R> inline void rows(int64_t pairs, const uint16_t* a, int64_t lda, const uint16_t* b, float* c, int64_t ldc, bool sum) {
  __m512 acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    acc[r][0] = sum ? _mm512_loadu_ps(c + r * ldc) : _mm512_setzero_ps();
    acc[r][1] = sum ? _mm512_loadu_ps(c + r * ldc + L) : _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < pairs; ++k) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + k * 64), b1 = (__m512bh)_mm512_loadu_si512(b + k * 64 + 32);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t w; std::memcpy(&w, a + r * lda + 2 * k, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(w);
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], b0, x);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], b1, x);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) { _mm512_storeu_ps(c + r * ldc, acc[r][0]); _mm512_storeu_ps(c + r * ldc + L, acc[r][1]); }
}
// the same with A transposed: dword (k, r) at a + (k*lda + r)*2
template <int R> inline void cols(int64_t pairs, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, float* c, int64_t ldc) {
  __m512 acc[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) { acc[r][0] = _mm512_loadu_ps(c + r * ldc); acc[r][1] = _mm512_loadu_ps(c + r * ldc + L); }
  for (int64_t k = 0; k < pairs; ++k) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + k * ldb * 2), b1 = (__m512bh)_mm512_loadu_si512(b + k * ldb * 2 + 32);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int32_t w; std::memcpy(&w, a + (k * lda + r) * 2, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(w);
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], b0, x);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], b1, x);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) { _mm512_storeu_ps(c + r * ldc, acc[r][0]); _mm512_storeu_ps(c + r * ldc + L, acc[r][1]); }
}
constexpr int R = 14;
void gemm(int64_t m, int64_t pairs, const uint16_t* a, int64_t lda, const uint16_t* b, float* c) {
  int64_t r = 0;
  for (; r + R <= m; r += R) rows<R>(pairs, a + r * lda, lda, b, c + r * 32, 32, false);
  const uint16_t* p = a + r * lda; float* q = c + r * 32;
  switch (m - r) {
#define CASE(n) case n: rows<n>(pairs, p, lda, b, q, 32, false); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
#undef CASE
  }
}
void gemm_t(int64_t m, int64_t pairs, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb, float* c, int64_t ldc) {
  int64_t r = 0;
  for (; r + R <= m; r += R) cols<R>(pairs, a + r * 2, lda, b, ldb, c + r * ldc, ldc);
  const uint16_t* p = a + r * 2; float* q = c + r * ldc;
  switch (m - r) {
#define CASE(n) case n: cols<n>(pairs, p, lda, b, ldb, q, ldc); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
#undef CASE
  }
}

// weights: element (o, i, h, w) at o*so + i*si + h*sh + w*sw. flip: the convolution's gradient with respect to x.
// U[o/32][xi][i/2][32][2]
void kernels(const float* w, const int64_t* st, int64_t O, int64_t C, bool flip, uint16_t* u, int threads) {
  const int64_t ob = up(O, 32) / 32, pairs = up(C, 2) / 2;
  over_blocks(ob * pairs, threads, [&](int64_t b0, int64_t b1) {
  for (int64_t b = b0; b < b1; ++b) {
    const int64_t o = b / pairs, k = b % pairs;
    V all[2][2][XI];  // half of outputs, of pair
    for (int h = 0; h < 2; ++h) for (int i = 0; i < 2; ++i) {
      const int64_t c = 2 * k + i, o0 = o * 32 + h * 16;
      V g[9], t[18];
      const __mmask16 mask = c >= C || o0 >= O ? 0 : (__mmask16)((1u << std::min<int64_t>(16, O - o0)) - 1);
      const __m512i index = _mm512_mullo_epi32(_mm512_setr_epi32(0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15), _mm512_set1_epi32((int)st[0]));
      for (int q = 0; q < 9; ++q) { const int y = flip ? 2 - q / 3 : q / 3, x = flip ? 2 - q % 3 : q % 3;
        g[q] = mask ? _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, w + o0 * st[0] + c * st[1] + y * st[2] + x * st[3], 4) : _mm512_setzero_ps(); }
      for (int x = 0; x < 3; ++x) to_kernel(g[x], g[3 + x], g[6 + x], t + x, 3);
      for (int y = 0; y < 6; ++y) to_kernel(t[3 * y], t[3 * y + 1], t[3 * y + 2], all[h][i] + 6 * y, 1);
    }
    const __m512i order = _mm512_set_epi16(31,15,30,14,29,13,28,12,27,11,26,10,25,9,24,8,23,7,22,6,21,5,20,4,19,3,18,2,17,1,16,0);
    for (int xi = 0; xi < XI; ++xi) for (int h = 0; h < 2; ++h) {
      const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(all[h][1][xi], all[h][0][xi]);
      _mm512_storeu_si512(u + ((o * XI + xi) * pairs + k) * 64 + h * 32, _mm512_permutexvar_epi16(order, both));
    }
  }
  });
}

inline void at_tile(const Shape& s, int64_t t, int64_t& n, int64_t& y, int64_t& x) { n = t / (s.th * s.tw); const int64_t r = t % (s.th * s.tw); y = r / s.tw; x = r % s.tw; }

inline void input_tile(const uint16_t* const* p, int64_t c, V* t) {  // 16 channels at c
  V d[36];
  for (int x = 0; x < 6; ++x) {
    to_input(load16(p[x] + c), load16(p[6 + x] + c), load16(p[12 + x] + c), load16(p[18 + x] + c), load16(p[24 + x] + c), load16(p[30 + x] + c), d + x, 6);
  }
  for (int y = 0; y < 6; ++y) to_input(d[6 * y], d[6 * y + 1], d[6 * y + 2], d[6 * y + 3], d[6 * y + 4], d[6 * y + 5], t + 6 * y, 1);
}
inline void pointers(const Shape& s, const uint16_t* x, int64_t t, const uint16_t** p) {
  int64_t n, ty, tx; at_tile(s, t, n, ty, tx);
  for (int i = 0; i < 6; ++i) for (int j = 0; j < 6; ++j) {
    const int64_t h = ty * 4 + i - s.pad, w = tx * 4 + j - s.pad;
    p[6 * i + j] = h >= 0 && h < s.H && w >= 0 && w < s.W ? x + ((n * s.H + h) * s.W + w) * s.C : zeros;
  }
}

// y = the convolution of x with the transformed kernels u, plus bias where it is not null.
void forward(const Shape& s, const uint16_t* x, const uint16_t* u, const float* bias, uint16_t* y, int threads) {
  const int64_t C = s.C, O = s.O;
  const int64_t Cp = up(C, 32), pairs = up(C, 2) / 2, ob = up(O, 32) / 32;
  int64_t tb = kForward / (XI * (Cp * 2 + 128)) / R * R; if (tb < R) tb = R;
  const int64_t blocks = (s.tiles + tb - 1) / tb;
  over_blocks(blocks, threads, [&](int64_t b0, int64_t b1) {
    Space<uint16_t> v(XI * tb * Cp);
    Space<float> m(XI * tb * 32);
    for (int64_t b = b0; b < b1; ++b) {
      const int64_t t0 = b * tb, count = std::min(tb, s.tiles - t0);
      for (int64_t t = 0; t < count; ++t) {
        const uint16_t* p[36]; pointers(s, x, t0 + t, p);
        int64_t c = 0;
        for (; c + 32 <= C; c += 32) {
          V lo[36], hi[36];
          input_tile(p, c, lo); input_tile(p, c + 16, hi);
          for (int xi = 0; xi < XI; ++xi) _mm512_store_si512(v + (xi * tb + t) * Cp + c, (__m512i)_mm512_cvtne2ps_pbh(hi[xi], lo[xi]));
        }
        if (c < C) {  // 8..31 channels are left: copy pixels into a zeroed row
          alignas(64) uint16_t rest[36][32]; const uint16_t* q[36]; V lo[36], hi[36];
          for (int i = 0; i < 36; ++i) { std::memset(rest[i], 0, 64); std::memcpy(rest[i], p[i] + c, (C - c) * 2); q[i] = rest[i]; }
          input_tile(q, 0, lo); input_tile(q, 16, hi);
          for (int xi = 0; xi < XI; ++xi) _mm512_store_si512(v + (xi * tb + t) * Cp + c, (__m512i)_mm512_cvtne2ps_pbh(hi[xi], lo[xi]));
        }
      }
      for (int64_t o = 0; o < ob; ++o) {
        for (int xi = 0; xi < XI; ++xi) gemm(count, pairs, v + xi * tb * Cp, Cp, u + (o * XI + xi) * pairs * 64, m + xi * tb * 32);
        const int64_t width = std::min<int64_t>(32, O - o * 32);
        for (int64_t t = 0; t < count; ++t) {
          int64_t img, ty, tx; at_tile(s, t0 + t, img, ty, tx);
          V out[2][16];
          for (int h = 0; h < 2; ++h) {
            V r[36];  // after the columns: 4 x 6
            V in[36]; 
            for (int xi = 0; xi < XI; ++xi) in[xi] = _mm512_load_ps(m + (xi * tb + t) * 32 + h * 16);
            for (int j = 0; j < 6; ++j) to_output(in + j, 6, r[j], r[6 + j], r[12 + j], r[18 + j]);
            for (int i = 0; i < 4; ++i) to_output(r + 6 * i, 1, out[h][4 * i], out[h][4 * i + 1], out[h][4 * i + 2], out[h][4 * i + 3]);
            if (bias) { const V add_ = mloadf(bias, o * 32 + h * 16, O); for (auto& each : out[h]) each = add(each, add_); }
          }
          const int64_t nh = std::min<int64_t>(4, s.OH - ty * 4), nw = std::min<int64_t>(4, s.OW - tx * 4);
          const __mmask32 mask = width == 32 ? ~0u : (1u << width) - 1;
          for (int64_t i = 0; i < nh; ++i) for (int64_t j = 0; j < nw; ++j) {
            uint16_t* to = y + ((img * s.OH + ty * 4 + i) * s.OW + tx * 4 + j) * O + o * 32;
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(out[1][4 * i + j], out[0][4 * i + j]);
            if (width == 32) _mm512_storeu_si512(to, both); else _mm512_mask_storeu_epi16(to, mask, both);
          }
        }
      }
    }
  });
}

// dw (O, C, 3, 3) through its strides: overwritten.
void weight_gradient(const Shape& s, const uint16_t* x, const uint16_t* dy, float* dw, const int64_t* st, int threads) {
  const int64_t C = s.C, O = s.O;
  const int64_t Cp = up(C, 16), Op = up(O, 32);
  int64_t tc = kWeight / (XI * (Cp + Op) * 2) / 2 * 2; if (tc < 2) tc = 2; tc = std::min(tc, up(s.tiles, 2));
  Space<uint16_t> v(XI * tc * Cp), g(XI * tc * Op);
  Space<float> du(XI * Cp * Op);
  const int64_t half = tc / 2;
  const __m512i order = _mm512_set_epi16(31,15,30,14,29,13,28,12,27,11,26,10,25,9,24,8,23,7,22,6,21,5,20,4,19,3,18,2,17,1,16,0);
  over_blocks(XI, threads, [&](int64_t i0, int64_t i1) { std::memset(du + i0 * Cp * Op, 0, (i1 - i0) * Cp * Op * 4); });
    for (int64_t t0 = 0; t0 < s.tiles; t0 += tc) {
      const int64_t count = std::min(tc, s.tiles - t0), pairs = (count + 1) / 2;
      over_blocks(pairs, threads, [&](int64_t k0, int64_t k1) {
      for (int64_t k = k0; k < k1; ++k) {
        const uint16_t* p[2][36]; const uint16_t* q[2][16];
        for (int h = 0; h < 2; ++h) {
          const int64_t t = t0 + 2 * k + h;
          if (t < t0 + count) pointers(s, x, t, p[h]); else for (auto& e : p[h]) e = zeros;
          int64_t n, ty, tx; at_tile(s, t, n, ty, tx);
          for (int i = 0; i < 4; ++i) for (int j = 0; j < 4; ++j)
            q[h][4 * i + j] = t < t0 + count && ty * 4 + i < s.OH && tx * 4 + j < s.OW ? dy + ((n * s.OH + ty * 4 + i) * s.OW + tx * 4 + j) * O : zeros;
        }
        for (int64_t c = 0; c < Cp; c += 16) {
          V a[36], b[36];
          if (c + 16 <= C) { input_tile(p[0], c, a); input_tile(p[1], c, b); }
          else {
            alignas(64) uint16_t rest[2][36][16] = {}; const uint16_t* r[2][36];
            for (int h = 0; h < 2; ++h) for (int i = 0; i < 36; ++i) { std::memcpy(rest[h][i], p[h][i] + c, (C - c) * 2); r[h][i] = rest[h][i]; }
            input_tile(r[0], 0, a); input_tile(r[1], 0, b);
          }
          for (int xi = 0; xi < XI; ++xi) _mm512_store_si512(v + ((xi * half + k) * Cp + c) * 2, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b[xi], a[xi])));
        }
        for (int64_t c = 0; c < O; c += 16) {
          V a[2][36];
          const __mmask16 mask = (__mmask16)((1u << std::min<int64_t>(16, O - c)) - 1);
          for (int h = 0; h < 2; ++h) {
            V d[24];
            for (int j = 0; j < 4; ++j) from_output(mload16(q[h][j] + c, mask), mload16(q[h][4 + j] + c, mask), mload16(q[h][8 + j] + c, mask), mload16(q[h][12 + j] + c, mask), d + j, 4);
            for (int i = 0; i < 6; ++i) from_output(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3], a[h] + 6 * i, 1);
          }
          for (int xi = 0; xi < XI; ++xi) _mm512_store_si512(g + ((xi * half + k) * Op + c) * 2, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(a[1][xi], a[0][xi])));
        }
      }
      });
      over_blocks(XI * Op / 32, threads, [&](int64_t j0, int64_t j1) {
        for (int64_t j = j0; j < j1; ++j) {
        const int64_t xi = j / (Op / 32), o = j % (Op / 32) * 32;
        gemm_t(Cp, pairs, v + xi * half * Cp * 2, Cp, g + (xi * half * Op + o) * 2, Op, du + xi * Cp * Op + o, Op);
        }
      });
    }
    over_blocks(C, threads, [&](int64_t c0, int64_t c1) {
    for (int64_t c = c0; c < c1; ++c) for (int64_t o = 0; o < Op; o += 16) {
      if (o >= O) continue;
      V u[36], r[18], d[9];
      for (int xi = 0; xi < XI; ++xi) u[xi] = _mm512_load_ps(du + (xi * Cp + c) * Op + o);
      for (int j = 0; j < 6; ++j) from_kernel(u + j, 6, r[j], r[6 + j], r[12 + j]);
      for (int i = 0; i < 3; ++i) from_kernel(r + 6 * i, 1, d[3 * i], d[3 * i + 1], d[3 * i + 2]);
      const __mmask16 mask = (__mmask16)((1u << std::min<int64_t>(16, O - o)) - 1);
      const __m512i index = _mm512_mullo_epi32(_mm512_setr_epi32(0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15), _mm512_set1_epi32((int)st[0]));
      for (int q = 0; q < 9; ++q) _mm512_mask_i32scatter_ps(dw + o * st[0] + c * st[1] + (q / 3) * st[2] + (q % 3) * st[3], mask, index, d[q], 4);
    }
    });
}

}  // namespace

// `shape` is N, H, W, C, O, padding. Tensors are channels_last bfloat16; weights float32 of any strides (O, C, 3, 3).
extern "C" {
int convworks_winograd_available() { return 1; }
int64_t convworks_winograd_size(int64_t O, int64_t C) { return up(O, 32) * XI * up(C, 2); }
int convworks_winograd_kernels(const float* w, const int64_t* strides, int64_t O, int64_t C, int flip, uint16_t* u, int threads) {
  GUARDED((kernels(w, strides, O, C, flip, u, threads), 0))
}
int convworks_winograd_forward(const int64_t* v, const uint16_t* x, const uint16_t* u, const float* bias, uint16_t* y, int threads) {
  GUARDED((forward(shape(v[0], v[1], v[2], v[3], v[4], int(v[5])), x, u, bias, y, threads), 0))
}
int convworks_winograd_weight(const int64_t* v, const uint16_t* x, const uint16_t* dy, float* dw, const int64_t* strides, int threads) {
  GUARDED((weight_gradient(shape(v[0], v[1], v[2], v[3], v[4], int(v[5])), x, dy, dw, strides, threads), 0))
}
}  // extern "C"
#else
extern "C" {
int convworks_winograd_available() { return 0; }
int64_t convworks_winograd_size(int64_t, int64_t) { return 0; }
int convworks_winograd_kernels(const float*, const int64_t*, int64_t, int64_t, int, uint16_t*, int) { return 1; }
int convworks_winograd_forward(const int64_t*, const uint16_t*, const uint16_t*, const float*, uint16_t*, int) { return 1; }
int convworks_winograd_weight(const int64_t*, const uint16_t*, const uint16_t*, float*, const int64_t*, int) { return 1; }
}  // extern "C"
#endif
