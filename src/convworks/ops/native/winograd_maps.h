// Where Winograd's tiles read pixels from and write them to: maps as they are, or with a 2x2 max pooling behind.

#pragma once
#include "winograd_transforms.h"

namespace {

struct Shape {  // of a convolution: `down` x `across` tiles of 4 x 4 outputs for each image
  int64_t N, H, W, C, O, pad, OH, OW, down, across, tiles;
  explicit Shape(const int64_t* v)
      : N(v[0]), H(v[1]), W(v[2]), C(v[3]), O(v[4]), pad(v[5]), OH(H + 2 * pad - 2), OW(W + 2 * pad - 2),
        down((OH + 3) / 4), across((OW + 3) / 4), tiles(N * down * across) {}
};
struct Tile {
  int64_t n, y, x;  // image, first row and column of the output
  Tile(const Shape& s, int64_t t) : n(t / (s.down * s.across)), y(t / s.across % s.down * 4), x(t % s.across * 4) {}
};

// Addresses of a window's pixels in a map of C channels: at[i][j], `outside` where there is none. HALVED: window and
// map are those of a map of twice the size, of which every 2 x 2 pixels share one here.
template <int SIDE, class T, int HALVED> struct Places {
  alignas(64) const T* at[SIDE][8];
  Places(const T* x, const T* outside, int64_t H, int64_t W, int64_t C, int64_t n, int64_t top, int64_t left) {
    const __m512i column = _mm512_srai_epi64(
        _mm512_add_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(left)), HALVED);
    const __mmask8 inside = _mm512_cmplt_epu64_mask(column, _mm512_set1_epi64(W));  // unsigned: and not below 0
    const __m512i offset = _mm512_mullo_epi64(column, _mm512_set1_epi64(int64_t(sizeof(T)) * C));
    const __m512i none = _mm512_set1_epi64(reinterpret_cast<int64_t>(outside));
    for (int i = 0; i < SIDE; ++i) {
      const int64_t h = (top + i) >> HALVED;
      const __m512i row = _mm512_set1_epi64(reinterpret_cast<int64_t>(x) + int64_t(sizeof(T)) * (n * H + h) * W * C);
      const __mmask8 m = h >= 0 && h < H ? inside : 0;
      _mm512_store_si512(at[i], _mm512_mask_add_epi64(none, m, row, offset));
    }
  }
  void fetch(int64_t C) const {  // the pixels that no window before this one had
    for (int i = SIDE - 4; i < SIDE; i += 1 + HALVED)
      for (int j = SIDE - 4; j < SIDE; j += 1 + HALVED)
        for (int64_t c = 0; c < C; c += 64 / int64_t(sizeof(T))) _mm_prefetch((const char*)(at[i][j] + c), _MM_HINT_T0);
  }
};

struct Plain {  // N x H x W pixels of C channels
  const uint16_t* x;
  int64_t H, W, C;
  template <int SIDE> struct Window {
    Places<SIDE, uint16_t, 0> x;
    void fetch(int64_t C) const { x.fetch(C); }
    template <bool FULL> V load(int i, int64_t c, __mmask16 m) const {
      const uint16_t* p = x.at[i / SIDE][i % SIDE] + c;
      return widen(FULL ? _mm256_loadu_si256((const __m256i*)p) : _mm256_maskz_loadu_epi16(m, p));
    }
  };
  template <int SIDE> Window<SIDE> window(int64_t n, int64_t top, int64_t left) const {
    return {{x, kZeros, H, W, C, n, top, left}};
  }
};

// The gradient before a 2x2 max pooling of stride 2 that chose `place`: dy where a pixel was chosen, else 0.
struct Unpooled {
  const uint16_t* dy;
  const uint8_t* place;
  int64_t H, W, C;  // of dy
  template <int SIDE> struct Window {
    Places<SIDE, uint16_t, 1> dy;
    Places<SIDE, uint8_t, 1> place;
    __m128i mine[2][2];  // the window's pixel i, j is number mine[i % 2][j % 2] of its four
    void fetch(int64_t C) const { dy.fetch(C); place.fetch(C); }
    template <bool FULL> V load(int i, int64_t c, __mmask16 m) const {
      const int row = i / SIDE, column = i % SIDE;
      const uint16_t* p = dy.at[row][column] + c;
      const uint8_t* q = place.at[row][column] + c;
      const __m128i where = FULL ? _mm_loadu_si128((const __m128i*)q) : _mm_maskz_loadu_epi8(m, q);
      const __m256i half = FULL ? _mm256_loadu_si256((const __m256i*)p) : _mm256_maskz_loadu_epi16(m, p);
      return widen(_mm256_and_si256(half, _mm256_cvtepi8_epi16(_mm_cmpeq_epi8(where, mine[row % 2][column % 2]))));
    }
  };
  template <int SIDE> Window<SIDE> window(int64_t n, int64_t top, int64_t left) const {
    Window<SIDE> w{{dy, kZeros, H, W, C, n, top, left},
                   {place, reinterpret_cast<const uint8_t*>(kZeros), H, W, C, n, top, left}, {}};
    for (int i = 0; i < 4; ++i)
      w.mine[i / 2][i % 2] = _mm_set1_epi8(char(((top + i / 2) & 1) * 2 + ((left + i % 2) & 1)));
    return w;
  }
};

struct Output {  // where results go
  const Shape& s;
  uint16_t* y;
  bool stream;          // past the caches
  const uint16_t* add;  // maps as y that are added, or none

  void put(int64_t t, int64_t o, const V (*out)[16]) const {
    const Tile at(s, t);
    const int64_t rows = std::min<int64_t>(4, s.OH - at.y), columns = std::min<int64_t>(4, s.OW - at.x);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t place = ((at.n * s.OH + at.y + i) * s.OW + at.x + j) * s.O + o;
        uint16_t* to = y + place;
        const Added more = added(add ? add + place : nullptr, s.O - o);
        const __m512i both = halves(out[0][4 * i + j] + more.low, out[1][4 * i + j] + more.high);
        if (stream) _mm512_stream_si512((__m512i*)to, both);
        else store(to, both, s.O - o);
      }
  }
};

struct PooledOutput {  // the largest of every 2 x 2 results, NaN before all others, and which of the four it was
  const Shape& s;
  uint16_t* y;
  uint8_t* place;

  void put(int64_t t, int64_t o, const V (*out)[16]) const {
    const Tile at(s, t);
    const int64_t rows = std::min<int64_t>(2, s.OH / 2 - at.y / 2), columns = std::min<int64_t>(2, s.OW / 2 - at.x / 2);
    const int64_t corner = ((at.n * (s.OH / 2) + at.y / 2) * (s.OW / 2) + at.x / 2) * s.O + o;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      if (q / 2 >= rows || q % 2 >= columns) continue;
      const int64_t to = corner + (q / 2 * (s.OW / 2) + q % 2) * s.O;
      V best[2];
      for (int h = 0; h < 2; ++h) {
        const V* z = out[h] + q / 2 * 8 + q % 2 * 2;
        best[h] = largest(z[0], z[1], z[4], z[5], place + to + h * kLane, s.O - o - h * kLane);
      }
      store(y + to, halves(best[0], best[1]), s.O - o);
    }
  }
  static V largest(V a, V b, V c, V d, uint8_t* place, int64_t n) {
    V best = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
    __m128i where = _mm_set1_epi8(3);  // the first of the largest
    where = _mm_mask_mov_epi8(where, _mm512_cmpeq_ps_mask(c, best), _mm_set1_epi8(2));
    where = _mm_mask_mov_epi8(where, _mm512_cmpeq_ps_mask(b, best), _mm_set1_epi8(1));
    where = _mm_mask_mov_epi8(where, _mm512_cmpeq_ps_mask(a, best), _mm_setzero_si128());
    if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) | _mm512_cmp_ps_mask(c, d, _CMP_UNORD_Q)) {  // the last NaN
      const V all[4] = {a, b, c, d};
      for (int q = 0; q < 4; ++q) {
        const __mmask16 nan = _mm512_cmp_ps_mask(all[q], all[q], _CMP_UNORD_Q);
        best = _mm512_mask_mov_ps(best, nan, all[q]);
        where = _mm_mask_mov_epi8(where, nan, _mm_set1_epi8(char(q)));
      }
    }
    store(place, where, n);
    return best;
  }
};

}  // namespace
