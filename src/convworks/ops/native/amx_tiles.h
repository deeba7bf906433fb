// The processor's matrix units (Intel AMX): eight tiles of 16 rows of 64 bytes. A product adds 16 x 32 numbers times
// 32 x 16, bfloat16, to 16 x 16 sums in float32.

#pragma once
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define MATRIX_UNITS 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cstdint>
#include <type_traits>

namespace {

constexpr int64_t kSide = 16;           // rows of a tile, and its columns of dwords
constexpr int64_t kTile = 512;          // bfloat16 numbers of a tile
constexpr int64_t kBlock = 2 * kSide;   // rows and columns of a block of 2 x 2 tiles of sums

inline bool tiles_permitted() {  // Linux gives their registers to a process that asks (ARCH_REQ_XCOMP_PERM)
  static const bool yes = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return yes;
}

// While it lives, this thread's tiles 0 to 3 are sums, 4 and 5 rows of A with `terms` numbers, 6 and 7 as many rows of
// B in pairs.
struct UnitsFor {
  const bool permitted = tiles_permitted();
  explicit UnitsFor(int64_t terms) {
    struct alignas(64) { uint8_t palette = 1, start = 0, none[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } c;
    for (int i = 0; i < 8; ++i) {
      c.rows[i] = uint8_t(i < 6 ? 16 : terms / 2);
      c.bytes[i] = uint16_t(i / 2 == 2 ? 2 * terms : 64);
    }
    if (permitted) _tile_loadconfig(&c);
  }
  ~UnitsFor() { if (permitted) _tile_release(); }
  UnitsFor(const UnitsFor&) = delete;
  UnitsFor& operator=(const UnitsFor&) = delete;
};

struct Layout { int64_t pitch, next; };  // bytes from a row to the next, and from a tile to the second one

// sums (32 x 32, rows of `row` floats) = or += the sum over i < count of A(i) B(i), or 16 rows or columns of that, with
// the addresses a(i) and b(i).
template <bool DOWN, bool ASIDE, class A, class B>
[[gnu::always_inline]] inline void tile_sums(int64_t count, A&& a, Layout la, B&& b, Layout lb, float* sums, int64_t row,
                                             bool add) {
  float *s1 = sums + kSide, *s2 = sums + kSide * row, *s3 = s2 + kSide;
  const int64_t bytes = row * 4;
  if (add) {
    _tile_loadd(0, sums, bytes);
    if (ASIDE) _tile_loadd(1, s1, bytes);
    if (DOWN) _tile_loadd(2, s2, bytes);
    if (DOWN && ASIDE) _tile_loadd(3, s3, bytes);
  } else {
    _tile_zero(0);
    if (ASIDE) _tile_zero(1);
    if (DOWN) _tile_zero(2);
    if (DOWN && ASIDE) _tile_zero(3);
  }
  for (int64_t i = 0; i < count; ++i) {
    const char *p = (const char*)a(i), *q = (const char*)b(i);
    _tile_loadd(6, q, lb.pitch);
    _tile_loadd(4, p, la.pitch);
    _tile_dpbf16ps(0, 4, 6);
    if (ASIDE) { _tile_loadd(7, q + lb.next, lb.pitch); _tile_dpbf16ps(1, 4, 7); }
    if (DOWN) {
      _tile_loadd(5, p + la.next, la.pitch);
      _tile_dpbf16ps(2, 5, 6);
      if (ASIDE) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, bytes);
  if (ASIDE) _tile_stored(1, s1, bytes);
  if (DOWN) _tile_stored(2, s2, bytes);
  if (DOWN && ASIDE) _tile_stored(3, s3, bytes);
}

// The same where B has one tile: sums (16 x 16 each, `apart` floats from one to the next) of 1 to 4 tiles of A, so that no
// product waits for the one before it.
template <int COUNT, class A, class B>
[[gnu::always_inline]] inline void tile_column(int64_t count, A&& a, Layout la, B&& b, int64_t pitch, float* sums,
                                               int64_t apart, int64_t row, bool add) {
  const int64_t bytes = row * 4;
  if (add) {
    _tile_loadd(0, sums, bytes);
    if (COUNT > 1) _tile_loadd(1, sums + apart, bytes);
    if (COUNT > 2) _tile_loadd(2, sums + 2 * apart, bytes);
    if (COUNT > 3) _tile_loadd(3, sums + 3 * apart, bytes);
  } else {
    _tile_zero(0);
    if (COUNT > 1) _tile_zero(1);
    if (COUNT > 2) _tile_zero(2);
    if (COUNT > 3) _tile_zero(3);
  }
  for (int64_t i = 0; i < count; ++i) {
    const char* p = (const char*)a(i);
    _tile_loadd(6, b(i), pitch);
    _tile_loadd(4, p, la.pitch);
    _tile_dpbf16ps(0, 4, 6);
    if (COUNT > 1) { _tile_loadd(5, p + la.next, la.pitch); _tile_dpbf16ps(1, 5, 6); }
    if (COUNT > 2) { _tile_loadd(4, p + 2 * la.next, la.pitch); _tile_dpbf16ps(2, 4, 6); }
    if (COUNT > 3) { _tile_loadd(5, p + 3 * la.next, la.pitch); _tile_dpbf16ps(3, 5, 6); }
  }
  _tile_stored(0, sums, bytes);
  if (COUNT > 1) _tile_stored(1, sums + apart, bytes);
  if (COUNT > 2) _tile_stored(2, sums + 2 * apart, bytes);
  if (COUNT > 3) _tile_stored(3, sums + 3 * apart, bytes);
}

// sums(k) (16 x 16, rows of `row` floats) = or += the sum over i < count of A(i) B(i, k) for each k < COUNT, all tiles of 32
// terms that lie one behind the other, those of A from `a` on and those of B(k) from b(k) on.
template <int COUNT, class B, class S>
[[gnu::always_inline]] inline void tile_row(int64_t count, const uint16_t* a, B&& b, S&& sums, int64_t row, bool add) {
  const int64_t bytes = row * 4;
  const uint16_t* from[COUNT];
  for (int k = 0; k < COUNT; ++k) from[k] = b(k);
  if (add) {
    _tile_loadd(0, sums(0), bytes);
    if (COUNT > 1) _tile_loadd(1, sums(1), bytes);
    if (COUNT > 2) _tile_loadd(2, sums(2), bytes);
    if (COUNT > 3) _tile_loadd(3, sums(3), bytes);
    if (COUNT > 4) _tile_loadd(4, sums(4), bytes);
  } else {
    _tile_zero(0);
    if (COUNT > 1) _tile_zero(1);
    if (COUNT > 2) _tile_zero(2);
    if (COUNT > 3) _tile_zero(3);
    if (COUNT > 4) _tile_zero(4);
  }
  for (int64_t i = 0, at = 0; i < count; ++i, at += kTile) {
    _tile_loadd(7, a + at, 64);
    _tile_loadd(5, from[0] + at, 64);
    _tile_dpbf16ps(0, 7, 5);
    if (COUNT > 1) { _tile_loadd(6, from[1] + at, 64); _tile_dpbf16ps(1, 7, 6); }
    if (COUNT > 2) { _tile_loadd(5, from[2] + at, 64); _tile_dpbf16ps(2, 7, 5); }
    if (COUNT > 3) { _tile_loadd(6, from[3] + at, 64); _tile_dpbf16ps(3, 7, 6); }
    if (COUNT > 4) { _tile_loadd(5, from[4] + at, 64); _tile_dpbf16ps(4, 7, 5); }
  }
  _tile_stored(0, sums(0), bytes);
  if (COUNT > 1) _tile_stored(1, sums(1), bytes);
  if (COUNT > 2) _tile_stored(2, sums(2), bytes);
  if (COUNT > 3) _tile_stored(3, sums(3), bytes);
  if (COUNT > 4) _tile_stored(4, sums(4), bytes);
}

template <class F> [[gnu::always_inline]] inline void for_column(int64_t count, F&& run) {  // with a constant
  if (count > 3) run(std::integral_constant<int, 4>());
  else if (count > 2) run(std::integral_constant<int, 3>());
  else if (count > 1) run(std::integral_constant<int, 2>());
  else run(std::integral_constant<int, 1>());
}

template <class F> [[gnu::always_inline]] inline void for_row(int64_t count, F&& run) {
  if (count > 4) run(std::integral_constant<int, 5>()); else for_column(count, run);
}

template <class F> [[gnu::always_inline]] inline void for_block(bool down, bool aside, F&& run) {  // with constants
  using Yes = std::true_type; using No = std::false_type;
  if (down) { if (aside) run(Yes(), Yes()); else run(Yes(), No()); }
  else { if (aside) run(No(), Yes()); else run(No(), No()); }
}

}  // namespace
#else
namespace {
struct UnitsFor { explicit UnitsFor(long) {} };  // there are none
}  // namespace
#endif
