// What the kernels of convolutions share: vectors of 16 numbers, bfloat16 in memory, weights of any strides, workspace.
// For processors with AVX512-BF16.

#pragma once
#include <immintrin.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

typedef __m512 V;
constexpr int kLane = 16;              // numbers of a vector
constexpr int64_t kStream = 24 << 20;  // bytes of a result that would not stay in the caches

inline V all(float f) { return _mm512_set1_ps(f); }
inline int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
inline __mmask16 lanes(int64_t n) { return n >= kLane ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1); }

alignas(64) const uint16_t kZeros[8192] = {};  // a pixel outside of the map

inline V widen(__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); }

struct Added { V low, high; };  // to a result
inline Added added(const uint16_t* p, int64_t n) {  // the n numbers at p, at most 32; zeros where there is no p
  if (!p) return {all(0.0f), all(0.0f)};
  const __m512i both = n >= 2 * kLane ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16((1u << n) - 1u, p);
  return {widen(_mm512_castsi512_si256(both)), widen(_mm512_extracti64x4_epi64(both, 1))};
}

inline __m512i halves(V low, V high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }  // low, then high
inline __m512i pairs_of(V first, V second) {  // first[0], second[0], first[1], ...
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves(first, second));
}

// The first n numbers of v. Stores of bytes and words under a mask take dozens of cycles on Zen 4 and 5.
template <class T> inline void store(T* to, const void* v, int64_t n) {
  if (n > 0) std::memcpy(to, v, size_t(n) * sizeof(T));
}
inline void store(uint16_t* to, __m512i v, int64_t n) {
  if (n >= 2 * kLane) { _mm512_storeu_si512(to, v); return; }
  alignas(64) uint16_t all[2 * kLane];
  _mm512_store_si512(all, v);
  store(to, static_cast<const void*>(all), n);
}
inline void store(uint8_t* to, __m128i v, int64_t n) {
  if (n >= kLane) _mm_storeu_si128((__m128i*)to, v); else store(to, static_cast<const void*>(&v), n);
}

template <class E> struct Space {  // memory for whole vectors
  E* at;
  explicit Space(int64_t count) : at(static_cast<E*>(std::aligned_alloc(64, up(count * int64_t(sizeof(E)), 64)))) {
    if (!at) throw std::bad_alloc();
  }
  ~Space() { std::free(at); }
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;
  operator E*() const { return at; }
};

// --- weights: o * so + c * sc for o < outputs, c < inputs <-> 16 rows, one for each c, of 16 o ----------------------

inline __m512i spread(int64_t stride) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_mullo_epi32(lane, _mm512_set1_epi32(int(stride)));
}
inline V load_spread(const float* p, int64_t stride, __mmask16 m) {
  if (stride == 1) return _mm512_maskz_loadu_ps(m, p);
  return _mm512_mask_i32gather_ps(all(0.0f), m, spread(stride), p, 4);
}
inline void store_spread(float* p, int64_t stride, __mmask16 m, V v) {
  if (stride == 1) _mm512_mask_storeu_ps(p, m, v); else _mm512_mask_i32scatter_ps(p, m, spread(stride), v, 4);
}
inline void transpose(V* r) {  // 16 x 16
#pragma GCC unroll 4
  for (int s = 8; s > 0; s /= 2) {  // exchange the off-diagonal blocks of s x s
    const __m512i lane = spread(1), by = _mm512_set1_epi32(s);
    const __mmask16 second = _mm512_test_epi32_mask(lane, by);
    const __m512i low = _mm512_mask_add_epi32(lane, second, lane, _mm512_set1_epi32(16 - s));
    const __m512i high = _mm512_mask_add_epi32(_mm512_add_epi32(lane, by), second, lane, _mm512_set1_epi32(16));
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
      if (!(i & s)) {
        const V a = r[i], b = r[i + s];
        r[i] = _mm512_permutex2var_ps(a, low, b);
        r[i + s] = _mm512_permutex2var_ps(a, high, b);
      }
  }
}
void load_block(const float* w, int64_t so, int64_t sc, int64_t outputs, int64_t inputs, V* rows) {
  const bool along = so < sc;  // vectors are read along the shorter stride
  const int64_t count = along ? inputs : outputs;
  const __mmask16 m = lanes(along ? outputs : inputs);
  for (int64_t i = 0; i < kLane; ++i)
    rows[i] = i < count ? load_spread(w + i * (along ? sc : so), along ? so : sc, m) : all(0.0f);
  if (!along) transpose(rows);
}
void store_block(float* w, int64_t so, int64_t sc, int64_t outputs, int64_t inputs, V* rows) {
  const bool along = so < sc;
  if (!along) transpose(rows);
  for (int64_t i = 0; i < std::min<int64_t>(kLane, along ? inputs : outputs); ++i)
    store_spread(w + i * (along ? sc : so), along ? so : sc, lanes(along ? outputs : inputs), rows[i]);
}

}  // namespace
