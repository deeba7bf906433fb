// Vectors of the widest kind that this processor has, of float32, and bfloat16 as pixels in memory.

#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define BYTES 64  // of a vector
#elif defined(__AVX2__)
#define BYTES 32
#else
#define BYTES 16  // SSE2, NEON
#endif
#if BYTES > 16
#include <immintrin.h>  // for what compilers' own conversions of vectors do one number at a time
#endif

namespace {

constexpr int kLanes = BYTES / 4;
typedef float vf __attribute__((vector_size(BYTES)));
typedef int32_t vi __attribute__((vector_size(BYTES)));
typedef uint32_t vu __attribute__((vector_size(BYTES)));
typedef uint16_t vh __attribute__((vector_size(BYTES / 2)));
typedef uint8_t vb __attribute__((vector_size(BYTES / 4)));

struct bf16 { uint16_t bits; };

template <class To, class From> inline To cast(const From& v) {
  static_assert(sizeof(To) == sizeof(From)); To r; std::memcpy(&r, &v, sizeof r); return r;
}

#if BYTES == 64
inline vu widen(vh h) { return cast<vu>(_mm512_cvtepu16_epi32(cast<__m256i>(h))); }
inline vi widen(vb b) { return cast<vi>(_mm512_cvtepu8_epi32(cast<__m128i>(b))); }
inline vh narrow(vu u) { return cast<vh>(_mm512_cvtepi32_epi16(cast<__m512i>(u))); }
inline vb narrow(vi i) { return cast<vb>(_mm512_cvtepi32_epi8(cast<__m512i>(i))); }
#elif BYTES == 32
inline __m128i pack(__m256i v) { return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)); }
inline vu widen(vh h) { return cast<vu>(_mm256_cvtepu16_epi32(cast<__m128i>(h))); }
inline vi widen(vb b) { return cast<vi>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(cast<int64_t>(b)))); }
inline vh narrow(vu u) { return cast<vh>(pack(cast<__m256i>(u))); }
inline vb narrow(vi i) {
  const __m128i half = pack(cast<__m256i>(i));
  return cast<vb>(int64_t(_mm_cvtsi128_si64(_mm_packus_epi16(half, half))));
}
#else
inline vu widen(vh h) { return __builtin_convertvector(h, vu); }
inline vi widen(vb b) { return __builtin_convertvector(b, vi); }
inline vh narrow(vu u) { return __builtin_convertvector(u, vh); }
inline vb narrow(vi i) { return __builtin_convertvector(i, vb); }
#endif

inline vf from_half(vh h) { return cast<vf>(widen(h) << 16); }
inline vh to_half(vf v) {  // to the nearest, ties to even; NaN stays NaN
  const vu u = cast<vu>(v), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const vu nan = (vu)((u & 0x7fffffffu) > 0x7f800000u);
  return narrow((rounded & ~nan) | (0x7fc0u & nan));
}
inline vf load(const float* p) { vf v; std::memcpy(&v, p, sizeof v); return v; }
inline vf load(const bf16* p) { vh h; std::memcpy(&h, p, sizeof h); return from_half(h); }
inline vi load(const uint8_t* p) { vb b; std::memcpy(&b, p, sizeof b); return widen(b); }
inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
inline void store(bf16* p, vf v) { const vh h = to_half(v); std::memcpy(p, &h, sizeof h); }
template <class P> inline void store_result(P* p, vf v) { store(p, v); }
#if BYTES == 64 && defined(__AVX512BF16__)
// By one instruction, which takes what is below 2^-126 for 0: for what was computed, not for what is passed on.
inline void store_result(bf16* p, vf v) {
  const vh h = cast<vh>(_mm512_cvtneps_pbh(cast<__m512>(v))); std::memcpy(p, &h, sizeof h);
}
#endif
inline void store(uint8_t* p, vi i) { const vb b = narrow(i); std::memcpy(p, &b, sizeof b); }

// The first n lanes, at least one; the others are 0 or stay as they are in memory.
#if BYTES == 64
inline __mmask16 lanes(int64_t n) { return __mmask16((1u << n) - 1u); }
inline vf load(const float* p, int64_t n) { return cast<vf>(_mm512_maskz_loadu_ps(lanes(n), p)); }
inline vf load(const bf16* p, int64_t n) { return from_half(cast<vh>(_mm256_maskz_loadu_epi16(lanes(n), p))); }
inline vi load(const uint8_t* p, int64_t n) { return widen(cast<vb>(_mm_maskz_loadu_epi8(lanes(n), p))); }
inline void store(float* p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, lanes(n), cast<__m512>(v)); }
inline void store(bf16* p, vf v, int64_t n) { _mm256_mask_storeu_epi16(p, lanes(n), cast<__m256i>(to_half(v))); }
inline void store(uint8_t* p, vi i, int64_t n) { _mm_mask_storeu_epi8(p, lanes(n), cast<__m128i>(narrow(i))); }
#else
template <class P> inline auto load(const P* p, int64_t n) {
  P all[kLanes] = {}; for (int64_t i = 0; i < n; ++i) all[i] = p[i];
  return load(static_cast<const P*>(all));
}
template <class P, class V> inline void store(P* p, V v, int64_t n) {
  P all[kLanes]; store(static_cast<P*>(all), v); for (int64_t i = 0; i < n; ++i) p[i] = all[i];
}
#endif

inline float get(const float* p) { return *p; }
inline float get(const bf16* p) { uint32_t u = uint32_t(p->bits) << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline void put(float* p, float f) { *p = f; }
inline void put(bf16* p, float f) {
  uint32_t u; std::memcpy(&u, &f, 4);
  p->bits = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline vf keep_where(vi mask, vf v) {  // else 0
#if BYTES == 64
  __asm__("" : "+v"(v));  // v is loaded now: a load under the mask would wait until the mask is known
#endif
  return cast<vf>(cast<vi>(v) & mask);
}
inline vf select(vi mask, vf a, vf b) { return cast<vf>((cast<vi>(a) & mask) | (cast<vi>(b) & ~mask)); }

// The smaller or larger of each pair; where v is NaN, NaN. And a b + c, rounded once where the processor can.
#if BYTES == 64
inline vf smaller(vf bound, vf v) { return cast<vf>(_mm512_min_ps(cast<__m512>(bound), cast<__m512>(v))); }
inline vf larger(vf bound, vf v) { return cast<vf>(_mm512_max_ps(cast<__m512>(bound), cast<__m512>(v))); }
inline vf multiply_add(vf a, vf b, vf c) {
  return cast<vf>(_mm512_fmadd_ps(cast<__m512>(a), cast<__m512>(b), cast<__m512>(c)));
}
#elif BYTES == 32
inline vf smaller(vf bound, vf v) { return cast<vf>(_mm256_min_ps(cast<__m256>(bound), cast<__m256>(v))); }
inline vf larger(vf bound, vf v) { return cast<vf>(_mm256_max_ps(cast<__m256>(bound), cast<__m256>(v))); }
#else
inline vf smaller(vf bound, vf v) { return select((vi)(bound < v), bound, v); }
inline vf larger(vf bound, vf v) { return select((vi)(bound > v), bound, v); }
#endif
#if BYTES == 32 && defined(__FMA__)
inline vf multiply_add(vf a, vf b, vf c) {
  return cast<vf>(_mm256_fmadd_ps(cast<__m256>(a), cast<__m256>(b), cast<__m256>(c)));
}
#elif BYTES < 64
inline vf multiply_add(vf a, vf b, vf c) { return a * b + c; }
#endif
inline vf all(float f) { return vf{} + f; }
inline vf magnitude(vf v) { return cast<vf>(cast<vi>(v) & 0x7fffffff); }

inline vi active(vf z) { return ~(vi)(z <= 0.0f); }  // NaN passes, as with torch's ReLU
inline bool active(float z) { return !(z <= 0.0f); }

}  // namespace
