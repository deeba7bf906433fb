// Numbers of 16 bits put into a new order, 32 at a time, by tables that are made once for a shape.

#pragma once
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define PICKS 1
#include <immintrin.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t kHalves = 32;  // numbers of a vector

struct Pick {  // which of the 32 numbers from `offset` of source `row` on go where in a vector
  alignas(64) uint16_t from[kHalves];
  uint32_t mask;
  int64_t row, offset;
};

struct Picks {
  std::vector<Pick> each;
  std::vector<size_t> ends{0};  // of those of each vector, behind a first 0
  // To the present vector: number source(lane) of a row, which is below `end`, or none where that is -1.
  template <class F> void add(int64_t row, int64_t end, F&& source) {
    int64_t numbers[kHalves], least = end;
    for (int64_t lane = 0; lane < kHalves; ++lane) {
      numbers[lane] = source(lane);
      if (numbers[lane] >= 0) least = std::min(least, numbers[lane]);
    }
    while (least < end) {
      Pick pick{{}, 0, row, std::max<int64_t>(std::min(least, end - kHalves), 0)};
      int64_t next = end;
      for (int64_t lane = 0; lane < kHalves; ++lane) {
        if (numbers[lane] < least) continue;
        if (numbers[lane] < least + kHalves) {
          pick.from[lane] = uint16_t(numbers[lane] - pick.offset);
          pick.mask |= 1u << lane;
        } else next = std::min(next, numbers[lane]);
      }
      each.push_back(pick);
      least = next;
    }
  }
  void end_vector() { ends.push_back(each.size()); }
  // Vector v, where load(row, offset) has 32 numbers; zeros where nothing was picked.
  template <class F> [[gnu::always_inline]] __m512i vector(int64_t v, F&& load) const {
    __m512i r = _mm512_setzero_si512();
    for (size_t i = ends[size_t(v)], end = ends[size_t(v) + 1]; i < end; ++i) {
      const Pick& pick = each[i];
      r = _mm512_mask_permutexvar_epi16(r, pick.mask, _mm512_load_si512(pick.from), load(pick.row, pick.offset));
    }
    return r;
  }
};

}  // namespace
#endif
