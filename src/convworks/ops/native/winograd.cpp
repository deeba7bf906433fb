// 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) in bfloat16: forward, both gradients, and all of these with a
// 2x2 max pooling behind.
//
//   y  = A^T [ (G w G^T) * (B^T x B) ] A           36 products for a tile of 4 x 4 outputs and 6 x 6 inputs, not 144
//   dx = the same of dy, with the kernels turned by half a turn and their channels exchanged
//   dw = G^T [ sum over tiles (B^T x B) * (A dy A^T) ] G
//
// The sums over channels or tiles are 36 products of matrices, one for each xi; bfloat16 with float32 sums. The rest
// is float32. The points are 0, +-sqrt(1/2), +-sqrt(2), infinity: measured against float64, results are wrong by 1 %
// of their size, with the usual 0, +-1, +-2 by 2.5 %. Sources: Lavin and Gray 2016, sections 4.1 to 4.3; Barabasz et
// al. 2020.
//
// Forward, threads share out the tiles: no sum crosses tiles. For dw, they share out the pairs of tiles of a chunk to
// transform, then xi and blocks of outputs to sum. Chunks depend on the shape alone and sums run in the order of the
// tiles: the bits do not depend on the number of threads.

#include <algorithm>
#include <cstdint>
#include "threads.h"
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && \
    defined(__AVX512BF16__)
#include "amx_tiles.h"
#include "winograd_maps.h"
#include "winograd_products.h"
#include "winograd_transforms.h"

namespace {

constexpr int64_t kFetch = 4;             // tiles between the one that is read and the one that is fetched
constexpr int64_t kRoom = 24 << 20;       // bytes of workspace, all threads together
constexpr int64_t kTiles = 600000;        // bytes of transformed tiles of one thread, forward: in L2
constexpr int64_t kChunk = 8000000;       // and for the weights' gradient, of all threads: in L2 or L3
constexpr int64_t kMostChunk = 16000000;

// Inputs come in steps of `terms` numbers, 32 at the most; those that are none are zeros.
inline int64_t steps(int64_t C) { return (C + 31) / 32; }
inline int64_t terms(int64_t C) { return up((C + steps(C) - 1) / steps(C), 2); }
inline int64_t kernel_plane(int64_t C) { return steps(C) * terms(C) * 32 + 64; }  // + 64: not all in the same sets

// U[o / 32][xi][c / 2][32][2] = G w G^T, w (O, C, 3, 3) of strides st.
void kernels(const float* w, const int64_t* st, int64_t O, int64_t C, bool flip, uint16_t* u, int threads) {
  const int64_t pairs = steps(C) * terms(C) / 2, blocks = up(2 * pairs, kLane) / kLane, plane = kernel_plane(C);
  over_blocks(up(O, 32) / 32 * blocks, threads, [&](int64_t b0, int64_t b1) {
    for (int64_t b = b0; b < b1; ++b) {
      const int64_t o = b / blocks * 32, c = b % blocks * kLane, left = std::min<int64_t>(8, pairs - c / 2);
      for (int64_t h = 0; h < 32; h += kLane) {
        V taps[9][kLane], made[2][kXi];
        for (int q = 0; q < 9; ++q) {
          const int64_t at = flip ? 8 - q : q, first = std::min(o + h, O - 1);
          load_block(w + first * st[0] + c * st[1] + at / 3 * st[2] + at % 3 * st[3], st[0], st[1],
                     std::max<int64_t>(O - o - h, 0), C - c, taps[q]);
        }
        for (int64_t k = 0; k < left; ++k) {
          for (int i = 0; i < 2; ++i)
            both_ways<6, 3>(kernel_row, [&](int q) { return taps[q][2 * k + i]; },
                            [&](int xi, V v) { made[i][xi] = v; });
          for (int xi = 0; xi < kXi; ++xi)
            _mm512_storeu_si512(u + (o / 32 * kXi + xi) * plane + (c / 2 + k) * 64 + h * 2,
                                pairs_of(made[0][xi], made[1][xi]));
        }
      }
    }
  });
}

// --- forward ---------------------------------------------------------------------------------------------------------

// B^T x B of one tile and up to 32 channels; v has a plane for each xi.
template <bool LOW, bool HIGH, class Window>  // whether these 16 channels are whole
void input_tile(const Window& w, int64_t c, int64_t C, uint16_t* v, int64_t plane) {
  V low[kXi];
  const __mmask16 m0 = lanes(C - c), m1 = lanes(C - c - kLane);
  both_ways<6, 6>(input_row, [&](int i) { return w.template load<LOW>(i, c, m0); },
                  [&](int xi, V d) { low[xi] = d; });
  if (HIGH || m1)
    both_ways<6, 6>(input_row, [&](int i) { return w.template load<HIGH>(i, c + kLane, m1); },
                    [&](int xi, V d) { _mm512_store_si512(v + xi * plane + c, halves(low[xi], d)); });
  else
    for (int xi = 0; xi < kXi; ++xi) _mm512_store_si512(v + xi * plane + c, halves(low[xi], all(0.0f)));
}

// A^T m A + bias of one tile and up to 32 outputs, to out.
template <class Out>
void output_tile(const float* m, int64_t plane, const float* bias, int64_t o, int64_t O, int64_t t, const Out& out) {
  V y[2][16];
  for (int h = 0; h < 2; ++h) {
    const int64_t first = o + h * kLane;
    if (first >= O) { std::fill(y[h], y[h] + 16, all(0.0f)); continue; }
    const V shift = bias ? _mm512_maskz_loadu_ps(lanes(O - first), bias + first) : all(0.0f);
    both_ways<4, 6>(output_row, [&](int xi) { return _mm512_load_ps(m + xi * plane + h * kLane); },
                    [&](int i, V v) { y[h][i] = v + shift; });
  }
  out.put(t, o, y);
}

// How many tiles a thread transforms at a time: more where the kernels, which each such block reads, are large.
int64_t block_of_tiles(const Shape& s, int threads) {
  const int64_t per_tile = kXi * (up(s.C, 32) * 2 + 128), all_kernels = kXi * up(s.O, 32) * s.C * 2;
  const int64_t most = std::min<int64_t>(3000000, kRoom / std::max(threads, 1));
  return std::max<int64_t>(kRows, std::min(std::max(kTiles, all_kernels / 8), most) / per_tile);
}

// m[tile][32] = v[tile][C] u[C][32] for one xi
void tile_products(const Shape& s, int64_t tiles, int64_t outputs, const uint16_t* v, const uint16_t* u, float* m) {
  const int64_t row = up(s.C, 32);
#ifdef MATRIX_UNITS
  if (tiles_permitted()) {
    const int64_t step = terms(s.C);
    for (int64_t t = 0; t < tiles; t += kBlock)
      for_block(tiles - t > kSide, outputs > kSide, [&](auto down, auto aside) {
        tile_sums<down.value, aside.value>(
            steps(s.C), [&](int64_t i) { return v + t * row + i * step; }, {row * 2, kSide * row * 2},
            [&](int64_t i) { return u + i * step * 32; }, {128, 64}, m + t * 32, 32, false);
      });
    return;
  }
#endif
  products<false>(tiles, outputs > kLane ? 2 : 1, {up(s.C, 2) / 2, v, row / 2, u, 32, m, 32, false});
}

template <class Map, class Out>
void forward(const Shape& s, const Map& x, const uint16_t* u, const float* bias, const Out& out, int threads) {
  const int64_t C = s.C, O = s.O, row = up(C, 32), most = block_of_tiles(s, threads), rows = up(most, kLane);
  const int64_t plane_v = rows * row + 32, plane_m = rows * 32 + 16;  // not all in the same sets of the caches
  over_blocks(s.tiles, threads, [&](int64_t first, int64_t last) {
    Space<uint16_t> v(kXi * plane_v);
    Space<float> m(kXi * plane_m);
    const UnitsFor units(terms(C));
    const int64_t blocks = (last - first + most - 1) / most;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t t0 = first + (last - first) * b / blocks, t1 = first + (last - first) * (b + 1) / blocks;
      for (int64_t t = t0; t < t1; ++t) {
        const Tile at(s, t), next(s, std::min(t + kFetch, s.tiles - 1));
        x.template window<6>(next.n, next.y - s.pad, next.x - s.pad).fetch(C);
        const auto w = x.template window<6>(at.n, at.y - s.pad, at.x - s.pad);
        uint16_t* to = v + (t - t0) * row;
        for (int64_t c = 0; c < C; c += 32)
          if (c + 32 <= C) input_tile<true, true>(w, c, C, to, plane_v);
          else if (c + kLane <= C) input_tile<true, false>(w, c, C, to, plane_v);
          else input_tile<false, false>(w, c, C, to, plane_v);
      }
      for (int64_t o = 0; o < O; o += 32) {
        const uint16_t* block = u + o / 32 * kXi * kernel_plane(C);
        for (int64_t xi = 0; xi < kXi; ++xi)
          tile_products(s, t1 - t0, O - o, v + xi * plane_v, block + xi * kernel_plane(C), m + xi * plane_m);
        for (int64_t t = t0; t < t1; ++t) output_tile(m + (t - t0) * 32, plane_m, bias, o, O, t, out);
      }
    }
    _mm_sfence();  // behind the stores that pass the caches
  });
}

Output output(const Shape& s, uint16_t* y, const uint16_t* add) {
  const bool whole = s.O % 32 == 0 && reinterpret_cast<uintptr_t>(y) % 64 == 0;
  return {s, y, whole && s.N * s.OH * s.OW * s.O * 2 > kStream, add};
}

// --- the weights' gradient -------------------------------------------------------------------------------------------

inline int64_t odd_lines(int64_t dwords) { return (dwords / 16 | 1) * 16; }  // rows start in many sets of the caches

template <class Map> struct WeightGradient {
  const Shape& s;
  const Plain& x;
  const Map& dy;
  int64_t Cp = up(s.C, kLane), Op = up(s.O, kLane), row_v = odd_lines(Cp), row_g = odd_lines(Op);
  int64_t blocks = up(s.O, 32) / 32;
  int64_t most = 0;  // pairs of tiles at a time
  int64_t plane_v() const { return most * row_v * 2; }
  int64_t plane_g() const { return most * row_g * 2; }

  template <int TO, int FROM, bool FULL, class Row, class Window>
  static void tile_pair(Row&& row, const Window& a, const Window& b, int64_t c, int64_t C, uint16_t* to,
                        int64_t plane) {
    V first[kXi];
    const __mmask16 m = lanes(C - c);
    both_ways<TO, FROM>(row, [&](int i) { return a.template load<FULL>(i, c, m); },
                        [&](int xi, V d) { first[xi] = d; });
    both_ways<TO, FROM>(row, [&](int i) { return b.template load<FULL>(i, c, m); },
                        [&](int xi, V d) { _mm512_store_si512(to + xi * plane, pairs_of(first[xi], d)); });
  }
  template <int FROM, class Row, class Window>
  static void channels(Row&& row, const Window& a, const Window& b, int64_t C, uint16_t* to, int64_t plane) {
    for (int64_t c = 0; c < C; c += kLane)
      if (c + kLane <= C) tile_pair<6, FROM, true>(row, a, b, c, C, to + c * 2, plane);
      else tile_pair<6, FROM, false>(row, a, b, c, C, to + c * 2, plane);
  }
  // B^T x B and A dy A^T of the pairs k0..k1 of the tiles t0..t1, into v[xi][k][c][2] and g[xi][k][o][2].
  void transform(int64_t t0, int64_t t1, int64_t k0, int64_t k1, uint16_t* v, uint16_t* g) const {
    for (int64_t k = k0; k < k1; ++k) {
      const int64_t t = t0 + 2 * k, none = -9;  // none: a row outside, where a pair has no second tile
      for (int64_t i = 0; i < 2; ++i) {
        const Tile next(s, std::min(t + 2 * kFetch + i, s.tiles - 1));
        x.window<6>(next.n, next.y - s.pad, next.x - s.pad).fetch(s.C);
        dy.template window<4>(next.n, next.y, next.x).fetch(s.O);
      }
      const Tile a(s, t), b(s, t + 1);
      const bool alone = t + 1 == t1;
      channels<6>(input_row, x.window<6>(a.n, a.y - s.pad, a.x - s.pad),
                  x.window<6>(b.n, alone ? none : b.y - s.pad, b.x - s.pad), s.C, v + k * row_v * 2, plane_v());
      channels<4>(gradient_row, dy.template window<4>(a.n, a.y, a.x),
                  dy.template window<4>(b.n, alone ? none : b.y, b.x), s.O, g + k * row_g * 2, plane_g());
    }
  }
  // Zeros behind the last pairs, up to what the matrix units multiply at a time.
  void close(int64_t pairs, uint16_t* v, uint16_t* g) const {
    const size_t left = size_t(up(pairs, kLane) - pairs) * 4;
    for (int64_t xi = 0; left && xi < kXi; ++xi) {
      std::memset(v + xi * plane_v() + pairs * row_v * 2, 0, left * row_v);
      std::memset(g + xi * plane_g() + pairs * row_g * 2, 0, left * row_g);
    }
  }
#ifdef MATRIX_UNITS
  void sum_by_units(int64_t pairs, int64_t j0, int64_t j1, const uint16_t* v, const uint16_t* g, float* du,
                    bool add) const {
    const UnitsFor units(32);
    const int64_t count = up(pairs, kLane) / kLane, row = odd_lines(count * kLane);
    Space<uint16_t> turned(Cp * row * 2);  // v of one xi, [c][pair]
    for (int64_t j = j0, made = -1; j < j1; ++j) {
      const int64_t xi = j / blocks, o = j % blocks * 32;
      for (int64_t c = 0; xi != made && c < Cp; c += kLane)
        for (int64_t k = 0; k < count; ++k) {
          V rows[kLane];
          for (int64_t i = 0; i < kLane; ++i)
            rows[i] = _mm512_load_ps(v + xi * plane_v() + ((k * kLane + i) * row_v + c) * 2);
          transpose(rows);
          for (int64_t i = 0; i < kLane; ++i) _mm512_store_ps(turned + ((c + i) * row + k * kLane) * 2, rows[i]);
        }
      made = xi;
      for (int64_t c = 0; c < Cp; c += kBlock)
        for_block(Cp - c > kSide, s.O - o > kSide, [&](auto down, auto aside) {
          tile_sums<down.value, aside.value>(
              count, [&](int64_t i) { return turned + c * row * 2 + i * 32; }, {row * 4, kSide * row * 4},
              [&](int64_t i) { return g + xi * plane_g() + (i * kLane * row_g + o) * 2; }, {row_g * 4, 64},
              du + (xi * Cp + c) * Op + o, Op, add);
        });
    }
  }
#endif
  // dU[xi][c][o] (+)= the products of these pairs, for j = xi and a block of 32 outputs.
  void sum(int64_t pairs, int64_t j0, int64_t j1, const uint16_t* v, const uint16_t* g, float* du, bool add) const {
#ifdef MATRIX_UNITS
    if (tiles_permitted()) { sum_by_units(pairs, j0, j1, v, g, du, add); return; }
#endif
    for (int64_t j = j0; j < j1; ++j) {
      const int64_t xi = j / blocks, o = j % blocks * 32;
      products<true>(s.C, s.O - o > kLane ? 2 : 1, {pairs, v + xi * plane_v(), row_v,
                     g + xi * plane_g() + o * 2, row_g, du + xi * Cp * Op + o, Op, add});
    }
  }
  // dw = G^T dU G
  void finish(const float* du, float* dw, const int64_t* st, int threads) const {
    over_blocks(Cp / kLane * (Op / kLane), threads, [&](int64_t b0, int64_t b1) {
      for (int64_t b = b0; b < b1; ++b) {
        const int64_t c = b / (Op / kLane) * kLane, o = b % (Op / kLane) * kLane;
        V taps[9][kLane];
        for (int64_t i = 0; i < std::min<int64_t>(kLane, s.C - c); ++i)
          both_ways<3, 6>(weight_row, [&](int xi) { return _mm512_load_ps(du + (xi * Cp + c + i) * Op + o); },
                          [&](int q, V d) { taps[q][i] = d; });
        for (int q = 0; q < 9; ++q)
          store_block(dw + o * st[0] + c * st[1] + q / 3 * st[2] + q % 3 * st[3], st[0], st[1], s.O - o, s.C - c,
                      taps[q]);
      }
    });
  }
  void run(float* dw, const int64_t* st, int threads) {
    const int64_t sums = kXi * Cp * Op, room = std::clamp(sums * 2, kChunk, kMostChunk);  // dU is read for each chunk
    most = up(std::clamp<int64_t>(room / (kXi * (row_v + row_g) * 4), 1, (s.tiles + 1) / 2), kLane);
    Space<uint16_t> v(kXi * plane_v()), g(kXi * plane_g());
    Space<float> du(sums);
    for (int64_t t0 = 0; t0 < s.tiles; t0 += 2 * most) {
      const int64_t t1 = std::min(t0 + 2 * most, s.tiles), pairs = (t1 - t0 + 1) / 2;
      over_blocks(pairs, threads, [&](int64_t k0, int64_t k1) { transform(t0, t1, k0, k1, v, g); });
      close(pairs, v, g);
      over_blocks(kXi * blocks, threads, [&](int64_t j0, int64_t j1) { sum(pairs, j0, j1, v, g, du, t0 > 0); });
    }
    finish(du, dw, st, threads);
  }
};

template <class Map>
void weight_gradient(const Shape& s, const Plain& x, const Map& dy, float* dw, const int64_t* st, int threads) {
  WeightGradient<Map>{s, x, dy}.run(dw, st, threads);
}

}  // namespace

// `shape` is N, H, W, C, O, padding. Tensors are channels_last bfloat16; weights float32 (O, C, 3, 3) of any strides.
extern "C" {

int convworks_winograd_available() { return 1; }
int64_t convworks_winograd_size(int64_t O, int64_t C) { return up(O, 32) / 32 * kXi * kernel_plane(C); }

int convworks_winograd_kernels(const float* w, const int64_t* strides, int64_t O, int64_t C, int flip, uint16_t* u,
                               int threads) {
  GUARDED((kernels(w, strides, O, C, flip, u, threads), 0))
}
int convworks_winograd_forward(const int64_t* shape, const uint16_t* x, const uint16_t* u, const float* bias,
                               const uint16_t* add, uint16_t* y, int threads) {
  const Shape s(shape);
  GUARDED((forward(s, Plain{x, s.H, s.W, s.C}, u, bias, output(s, y, add), threads), 0))
}
int convworks_winograd_weight(const int64_t* shape, const uint16_t* x, const uint16_t* dy, float* dw,
                              const int64_t* strides, int threads) {
  const Shape s(shape);
  GUARDED((weight_gradient(s, Plain{x, s.H, s.W, s.C}, Plain{dy, s.OH, s.OW, s.O}, dw, strides, threads), 0))
}

// With a 2x2 max pooling of stride 2 behind. y and dy, bfloat16, and place, uint8 (2 row + column), are
// (N, OH / 2, OW / 2, O), rounded down. `shape` is that of the convolution without the pooling; for pool_input that
// of dx as a convolution: N, OH, OW, O, C, 2 - padding, where the unpooled gradient is never in memory.
int convworks_winograd_pool_forward(const int64_t* shape, const uint16_t* x, const uint16_t* u, const float* bias,
                                    uint16_t* y, uint8_t* place, int threads) {
  const Shape s(shape);
  GUARDED((forward(s, Plain{x, s.H, s.W, s.C}, u, bias, PooledOutput{s, y, place}, threads), 0))
}
int convworks_winograd_pool_input(const int64_t* shape, const uint16_t* dy, const uint8_t* place, const uint16_t* u,
                                  uint16_t* dx, int threads) {
  const Shape s(shape);
  GUARDED((forward(s, Unpooled{dy, place, s.H / 2, s.W / 2, s.C}, u, nullptr, output(s, dx, nullptr), threads), 0))
}
int convworks_winograd_pool_weight(const int64_t* shape, const uint16_t* x, const uint16_t* dy, const uint8_t* place,
                                   float* dw, const int64_t* strides, int threads) {
  const Shape s(shape);
  const Unpooled map{dy, place, s.OH / 2, s.OW / 2, s.O};
  GUARDED((weight_gradient(s, Plain{x, s.H, s.W, s.C}, map, dw, strides, threads), 0))
}

}  // extern "C"
#else
extern "C" {  // this processor lacks the instructions: nothing but the first is called

int convworks_winograd_available() { return 0; }
int64_t convworks_winograd_size(int64_t, int64_t) { return 0; }
int convworks_winograd_kernels(const float*, const int64_t*, int64_t, int64_t, int, uint16_t*, int) { return 1; }
int convworks_winograd_forward(const int64_t*, const uint16_t*, const uint16_t*, const float*, const uint16_t*, uint16_t*,
                               int) {
  return 1;
}
int convworks_winograd_weight(const int64_t*, const uint16_t*, const uint16_t*, float*, const int64_t*, int) {
  return 1;
}
int convworks_winograd_pool_forward(const int64_t*, const uint16_t*, const uint16_t*, const float*, uint16_t*,
                                    uint8_t*, int) {
  return 1;
}
int convworks_winograd_pool_input(const int64_t*, const uint16_t*, const uint8_t*, const uint16_t*, uint16_t*, int) {
  return 1;
}
int convworks_winograd_pool_weight(const int64_t*, const uint16_t*, const uint16_t*, const uint8_t*, float*,
                                   const int64_t*, int) {
  return 1;
}

}  // extern "C"
#endif
