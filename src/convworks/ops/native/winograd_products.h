// Products of small bfloat16 matrices, with sums in float32 that stay in registers.

#pragma once
#include <immintrin.h>
#include <cstdint>
#include <cstring>
#include <utility>

namespace {

constexpr int kRows = 14;  // at a time: 14 x 2 vectors of sums, 2 of B and 1 of A fill the registers

// C = A B, or C += A B with `add`. Terms come in pairs, one dword each: those of B in rows of `ldb` dwords, those of
// A in rows of `lda` dwords, or in columns of A (ACROSS). C has rows of `ldc` floats.
struct Product {
  int64_t pairs;
  const uint16_t* a;
  int64_t lda;
  const uint16_t* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  bool add;
};

template <bool ACROSS, int VECTORS, int ROWS> void product(const Product& p) {
  const uint16_t *a = p.a, *b = p.b;
  const int64_t lda = p.lda, ldb = p.ldb, ldc = p.ldc;
  float* c = p.c;
  __m512 sums[ROWS][VECTORS];
#pragma GCC unroll 14
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = p.add ? _mm512_loadu_ps(c + r * ldc + 16 * v) : _mm512_setzero_ps();
  for (int64_t k = 0; k < p.pairs; ++k) {
    __m512bh terms[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) terms[v] = (__m512bh)_mm512_loadu_si512(b + 2 * k * ldb + 32 * v);
#pragma GCC unroll 14
    for (int r = 0; r < ROWS; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + 2 * (ACROSS ? k * lda + r : r * lda + k), sizeof pair);
      const __m512bh term = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], terms[v], term);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; ++v) _mm512_storeu_ps(c + r * ldc + 16 * v, sums[r][v]);
}

template <bool ACROSS, int VECTORS, size_t... I>
void with_rows(int64_t rows, const Product& p, std::index_sequence<I...>) {
  static constexpr void (*const kAll[])(const Product&) = {product<ACROSS, VECTORS, int(I) + 1>...};
  kAll[rows - 1](p);
}

// For any number of rows, and 1 or 2 vectors.
template <bool ACROSS> void products(int64_t rows, int64_t vectors, const Product& whole) {
  constexpr auto sizes = std::make_index_sequence<kRows>();
  const int64_t parts = (rows + kRows - 1) / kRows;
  for (int64_t i = 0; i < parts; ++i) {  // of nearly the same size
    const int64_t first = rows * i / parts, count = rows * (i + 1) / parts - first;
    Product p = whole;
    p.a += 2 * first * (ACROSS ? 1 : p.lda);
    p.c += first * p.ldc;
    if (vectors == 2) with_rows<ACROSS, 2>(count, p, sizes); else with_rows<ACROSS, 1>(count, p, sizes);
  }
}

}  // namespace
