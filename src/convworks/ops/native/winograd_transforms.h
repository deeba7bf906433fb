// The transforms of F(4, 3) on vectors of 16 channels: in one dimension, and from these in two.

#pragma once
#include "half_vectors.h"

namespace {

template <int N> struct Vs {
  V at[N];
  V& operator[](int i) { return at[i]; }
  const V& operator[](int i) const { return at[i]; }
};

constexpr int kXi = 36;                                                // products of a tile; xi counts them
constexpr float kA = 0.70710678118654752f, kB = 1.41421356237309505f;  // the points: 0, +-kA, +-kB, infinity
constexpr float kGa = -1.0f / 1.5f, kGb = 1.0f / 6.0f;                 // 1 / (2 p^2 (p^2 - q^2)), q the other of kA, kB

inline V times(float f, V a) { return all(f) * a; }
inline V plus(float f, V a, V c) { return _mm512_fmadd_ps(all(f), a, c); }    // c + f a
inline V minus(float f, V a, V c) { return _mm512_fnmadd_ps(all(f), a, c); }  // c - f a

inline Vs<6> input_row(const Vs<6>& d) {  // B^T d
  const V e1 = minus(2.0f, d[2], d[4]), o1 = minus(2.0f, d[1], d[3]);
  const V e2 = minus(0.5f, d[2], d[4]), o2 = minus(0.5f, d[1], d[3]);
  return {minus(2.5f, d[2], d[4]) + d[0], plus(kA, o1, e1), minus(kA, o1, e1),
          plus(kB, o2, e2), minus(kB, o2, e2), minus(2.5f, d[3], d[5]) + d[1]};
}
inline Vs<4> output_row(const Vs<6>& m) {  // A^T m
  const V sa = m[1] + m[2], da = m[1] - m[2], sb = m[3] + m[4], db = m[3] - m[4];
  return {m[0] + sa + sb, plus(kB, db, times(kA, da)), plus(2.0f, sb, times(0.5f, sa)),
          plus(2 * kB, db, plus(0.5f * kA, da, m[5]))};
}
inline Vs<6> gradient_row(const Vs<4>& y) {  // A y
  const V e1 = plus(0.5f, y[2], y[0]), o1 = plus(0.5f, y[3], y[1]);
  const V e2 = plus(2.0f, y[2], y[0]), o2 = plus(2.0f, y[3], y[1]);
  return {y[0], plus(kA, o1, e1), minus(kA, o1, e1), plus(kB, o2, e2), minus(kB, o2, e2), y[3]};
}
inline Vs<6> kernel_row(const Vs<3>& g) {  // G g
  const V ea = plus(0.5f, g[2], g[0]), oa = times(kA, g[1]), eb = plus(2.0f, g[2], g[0]), ob = times(kB, g[1]);
  return {g[0], times(kGa, ea + oa), times(kGa, ea - oa), times(kGb, eb + ob), times(kGb, eb - ob), g[2]};
}
inline Vs<3> weight_row(const Vs<6>& u) {  // G^T u
  const V sa = times(kGa, u[1] + u[2]), da = times(kGa, u[1] - u[2]);
  const V sb = times(kGb, u[3] + u[4]), db = times(kGb, u[3] - u[4]);
  return {u[0] + sa + sb, plus(kA, da, times(kB, db)), plus(0.5f, sa, plus(2.0f, sb, u[5]))};
}

// T d T^T for the transform T = `row`: FROM x FROM values load(index) become TO x TO, given to put(index, value).
template <int TO, int FROM, class Row, class Load, class Put>
[[gnu::always_inline]] inline void both_ways(Row&& row, Load&& load, Put&& put) {
  Vs<FROM> half[TO];
#pragma GCC unroll 6
  for (int j = 0; j < FROM; ++j) {
    Vs<FROM> column;
#pragma GCC unroll 6
    for (int i = 0; i < FROM; ++i) column[i] = load(FROM * i + j);
    const Vs<TO> to = row(column);
#pragma GCC unroll 6
    for (int i = 0; i < TO; ++i) half[i][j] = to[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < TO; ++i) {
    const Vs<TO> to = row(half[i]);
#pragma GCC unroll 6
    for (int j = 0; j < TO; ++j) put(TO * i + j, to[j]);
  }
}

}  // namespace
