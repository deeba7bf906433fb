// Max pooling of bfloat16 maps whose pixels have few channels, 32 numbers of a row at a time, without float32: numbers are
// compared as integers, and permutations bring those together that a tap of the windows meets. There is no padding at the
// left and right; backward, windows do not overlap. The bits are those of max_pool.h.

#pragma once
#include "picks.h"
#ifdef PICKS

namespace {

constexpr int64_t kFewHalves = 64;  // of a pixel, below which this is faster

inline bool in_halves(const Window& w) {
  return w.C < kFewHalves && w.C % kHalves != 0 && w.pw == 0 && w.OW * w.C >= kHalves;
}
inline bool in_halves_backward(const Window& w) { return in_halves(w) && w.kw <= w.sw && w.kh <= w.sh; }
inline __m512i words(int v) { return _mm512_set1_epi16(short(v)); }
inline int64_t vectors_of(int64_t numbers) { return (numbers + kHalves - 1) / kHalves; }
// The last vector overlaps the one before it.
inline int64_t start_of(int64_t v, int64_t numbers) { return std::min(v * kHalves, numbers - kHalves); }

constexpr int kInfinity = 0x7f80, kNaN = 0x7fc0, kAboveAll = 0x7fff;

struct Best {  // as MaxPool::Best
  __m512i best = words(kInfinity | 0x8000), key = words(-kInfinity), where;
  void meet(__m512i v, int64_t tap) {
    const __m512i magnitude = _mm512_and_si512(v, words(0x7fff));
    const __mmask32 nan = _mm512_cmpgt_epi16_mask(magnitude, words(kInfinity));
    __m512i k = _mm512_mask_sub_epi16(magnitude, _mm512_movepi16_mask(v), _mm512_setzero_si512(), magnitude);
    k = _mm512_mask_mov_epi16(k, nan, words(kAboveAll));
    const __mmask32 better = _mm512_cmpgt_epi16_mask(k, key) | nan;
    best = _mm512_mask_mov_epi16(best, better, v);
    key = _mm512_mask_mov_epi16(key, better, k);
    where = _mm512_mask_mov_epi16(where, better, words(int(tap)));
  }
};

template <bool FLOOR> void half_pool(const Window& w, const uint16_t* x, uint16_t* y, uint8_t* place, int threads) {
  const int64_t row = w.W * w.C, out = w.OW * w.C, vectors = vectors_of(out);
  Picks picks;
  for (int64_t v = 0; v < vectors; ++v)
    for (int64_t j = 0; j < w.kw; ++j) {
      picks.add(0, row, [&](int64_t lane) {
        const int64_t q = start_of(v, out) + lane;
        return (q / w.C * w.sw + j) * w.C + q % w.C;
      });
      picks.end_vector();
    }
  over_blocks(w.N * w.OH, w.N * w.OH * out < kAlone ? 1 : threads, [&](int64_t b0, int64_t b1) {
    for (int64_t r = b0; r < b1; ++r) {
      const int64_t top = r % w.OH * w.sh - w.ph, i0 = top < 0 ? -top : 0, i1 = top + w.kh > w.H ? w.H - top : w.kh;
      const uint16_t* from = x + (r / w.OH * w.H + top) * row;
      for (int64_t v = 0; v < vectors; ++v) {
        Best b;
        b.where = words(int(i0 * w.kw));
        for (int64_t i = i0; i < i1; ++i)
          for (int64_t j = 0; j < w.kw; ++j)
            b.meet(picks.vector(v * w.kw + j,
                                [&](int64_t, int64_t offset) { return _mm512_loadu_si512(from + i * row + offset); }),
                   i * w.kw + j);
        b.best = _mm512_mask_mov_epi16(b.best, _mm512_cmpeq_epi16_mask(b.key, words(kAboveAll)), words(kNaN));
        if (FLOOR) {
          const __mmask32 off = _mm512_cmple_epi16_mask(b.key, _mm512_setzero_si512());
          b.best = _mm512_mask_mov_epi16(b.best, off, _mm512_setzero_si512());
          b.where = _mm512_mask_mov_epi16(b.where, off, words(kNone));
        }
        const int64_t at = r * out + start_of(v, out);
        _mm512_storeu_si512(y + at, b.best);
        _mm256_storeu_si256((__m256i*)(place + at), _mm512_cvtepi16_epi8(b.where));
      }
    }
  });
}

inline void half_pool_backward(const Window& w, const uint16_t* dy, const uint8_t* place, uint16_t* dx, int threads) {
  const int64_t row = w.W * w.C, out = w.OW * w.C, vectors = vectors_of(row);
  Picks picks;
  std::vector<uint16_t> columns(size_t(vectors * kHalves));  // of the window, for each number of a row
  for (int64_t v = 0; v < vectors; ++v) {
    picks.add(0, out, [&](int64_t lane) {
      const int64_t q = start_of(v, row) + lane, column = q / w.C, j = column % w.sw, ow = column / w.sw;
      columns[v * kHalves + lane] = uint16_t(j);
      return j < w.kw && ow < w.OW ? ow * w.C + q % w.C : -1;
    });
    picks.end_vector();
  }
  over_blocks(w.N * w.H, w.N * w.H * row < kAlone ? 1 : threads, [&](int64_t b0, int64_t b1) {
    for (int64_t r = b0; r < b1; ++r) {
      const int64_t ih = r % w.H + w.ph, oh = ih / w.sh, i = ih % w.sh;
      uint16_t* to = dx + r * row;
      if (i >= w.kh || oh >= w.OH) { std::memset(to, 0, size_t(row) * 2); continue; }
      const int64_t from = (r / w.H * w.OH + oh) * out;
      const __m512i first = words(int(i * w.kw));
      for (int64_t v = 0; v < vectors; ++v) {
        const __m512i g = picks.vector(v, [&](int64_t, int64_t offset) { return _mm512_loadu_si512(dy + from + offset); });
        const __m512i at = picks.vector(v, [&](int64_t, int64_t offset) {
          return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)(place + from + offset)));
        });
        const __m512i mine = _mm512_add_epi16(first, _mm512_loadu_si512(&columns[v * kHalves]));
        const __m512i magnitude = _mm512_and_si512(g, words(0x7fff));
        const __mmask32 nan = _mm512_cmpgt_epi16_mask(magnitude, words(kInfinity));
        const __mmask32 on = _mm512_cmpeq_epi16_mask(at, mine) & _mm512_test_epi16_mask(magnitude, magnitude);  // 0 for -0
        const __m512i kept = _mm512_maskz_mov_epi16(on, _mm512_mask_mov_epi16(g, nan, words(kNaN)));
        _mm512_storeu_si512(to + start_of(v, row), kept);
      }
    }
  });
}

}  // namespace
#endif
