// Dense layers in bfloat16 on the matrix units (AMX): y = x W' + b, and the gradients of x, W and b.
//
// Large layers are bound by memory: the float32 weights are read once for each product, a block at a time, rounded in
// registers and kept in L1 for as long as the block is multiplied. Their gradient is written once, as float32. x and dy
// are small beside them and are put into the order of tiles first: blocks of 32 x 32 numbers, [block][step], the steps
// along what is summed.
//
//   y  (N, O): W's rows are those of A, x is B in pairs along the inputs; the sums are y turned
//   dx (N, C): dy's rows are those of A, W is B in pairs along the outputs
//   dW (O, C): dy turned is A, x is B in pairs along the batch
//
// Threads share out blocks of what is written. Each number is summed by one thread in an order that depends on the shape
// alone: the bits do not depend on the number of threads. Source: Intel, "Intrinsics guide", AMX-BF16.

#include <algorithm>
#include <cstdint>
#include "threads.h"
#include "amx_tiles.h"
#if defined(MATRIX_UNITS) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512BF16__)
#include "half_vectors.h"

namespace {

constexpr int64_t kPair = 2 * kTile;  // numbers of a block of 32 x 32
constexpr int64_t kRows = 8;          // blocks of the batch that one reading of the weights meets
constexpr int64_t kGroup = 4;         // blocks of outputs that meet the same part of x while it is in the caches
constexpr int64_t kSteps = 8;         // a block of weights, forward: 32 outputs x 256 inputs
constexpr int64_t kDeep = 4, kWide = 8;  // and for dx: 128 outputs x 256 inputs
constexpr int64_t kSlice = 8;        // blocks of inputs of a part of the weights' gradient
constexpr int64_t kFew = 1 << 23;     // products that one thread does sooner than two, which wait for each other

constexpr Layout kTiles{64, 2 * kTile};  // of a block: two tiles, one behind the other

struct Dense {  // the shape of a layer, and in blocks of 32
  int64_t N, C, O, n, c, o;
  explicit Dense(const int64_t* v) : N(v[0]), C(v[1]), O(v[2]), n(blocks(N)), c(blocks(C)), o(blocks(O)) {}
  static int64_t blocks(int64_t count) { return (count + kBlock - 1) / kBlock; }
  int64_t turns() const { return (n + kRows - 1) / kRows; }
  int threads(int wanted) const { return up(N, kSide) * C * O < kFew ? 1 : wanted; }
};

// --- x and dy in the order of tiles ----------------------------------------------------------------------------------

struct Block {  // 32 rows of 32 numbers, zeros outside of the matrix
  V row[kBlock];
  Block(const uint16_t* m, int64_t rows, int64_t columns, int64_t r, int64_t c) {
    const __mmask32 some = columns - c >= kBlock ? ~0u : (1u << (columns - c)) - 1u;
    for (int64_t i = 0; i < kBlock; ++i)
      row[i] = r + i < rows ? (V)_mm512_maskz_loadu_epi16(some, m + (r + i) * columns + c) : all(0.0f);
  }
  void put_rows(uint16_t* to) const {  // [row][32]
    for (int64_t i = 0; i < kBlock; ++i) _mm512_store_ps(to + i * kBlock, row[i]);
  }
  void put_pairs(uint16_t* to) const {  // [row / 2][column][2], 16 columns and then the others
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                         39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t i = 0; i < kBlock; i += 2, to += kBlock) {
      const __m512i a = (__m512i)row[i], b = (__m512i)row[i + 1];
      _mm512_store_si512(to, _mm512_permutex2var_epi16(a, low, b));
      _mm512_store_si512(to + kTile, _mm512_permutex2var_epi16(a, high, b));
    }
  }
  // The other two leave the block with its pairs of columns turned.
  void put_column_pairs(uint16_t* to) {  // [column / 2][row][2], 16 rows and then the others
    transpose(row), transpose(row + kSide);
    put_rows(to);
  }
  void put_columns(uint16_t* to) {  // [column][32]
    const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32,
                                          30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    transpose(row), transpose(row + kSide);
    for (int64_t i = 0; i < kSide; ++i, to += 2 * kBlock) {
      const __m512i a = (__m512i)row[i], b = (__m512i)row[kSide + i];
      _mm512_store_si512(to, _mm512_permutex2var_epi16(a, even, b));
      _mm512_store_si512(to + kBlock, _mm512_permutex2var_epi16(a, odd, b));
    }
  }
  void add_to(V* sums) const {  // of 32 columns
    for (const V& each : row) {
      sums[0] += widen(_mm512_castsi512_si256((__m512i)each));
      sums[1] += widen(_mm512_extracti64x4_epi64((__m512i)each, 1));
    }
  }
};

// 32 x 32 sums, `row` floats from one to the next, = or += `count` steps of a times b.
inline void multiply(int64_t count, const uint16_t* a, bool down, const uint16_t* b, bool aside, float* sums, int64_t row,
                     bool add) {
  for_block(down, aside, [&](auto d, auto s) {
    tile_sums<d.value, s.value>(count, [&](int64_t i) { return a + i * kPair; }, kTiles,
                                [&](int64_t i) { return b + i * kPair; }, kTiles, sums, row, add);
  });
}

// body(first, last) for runs of at most `most` of the blocks b0 to b1 that lie in the same one of rows of `row`.
template <class F> void for_runs(int64_t b0, int64_t b1, int64_t row, int64_t most, F&& body) {
  for (int64_t b = b0, end; b < b1; b = end) {
    end = std::min({b1, b + most, (b / row + 1) * row});
    body(b, end);
  }
}

inline V floats(const float* from, int64_t count) { return _mm512_maskz_loadu_ps(lanes(count), from); }

// --- forward ---------------------------------------------------------------------------------------------------------

// to[step][32 outputs][32 inputs]: `count` steps of 32 of the layer's outputs, from w on. Rows beyond the last output
// are that one again: nobody reads their sums. What comes next is fetched.
void round_rows(const float* w, int64_t outputs, int64_t C, int64_t c, int64_t count, uint16_t* to) {
  for (int64_t r = 0; r < kBlock; ++r) {
    const float* row = w + std::min(r, outputs - 1) * C + c;
    for (int64_t s = 0; s < count; ++s) {
      const float* at = row + s * kBlock;
      const int64_t left = C - c - s * kBlock;
      _mm_prefetch((const char*)(at + kSteps * kBlock), _MM_HINT_T0);
      _mm_prefetch((const char*)(at + kSteps * kBlock + kSide), _MM_HINT_T0);
      const __m512i both = left >= kBlock ? halves(_mm512_loadu_ps(at), _mm512_loadu_ps(at + kSide))
                                          : halves(floats(at, left), floats(at + kSide, left - kSide));
      _mm512_store_si512(to + (s * kBlock + r) * kBlock, both);
    }
  }
}

// 32 x 32 sums, of outputs from o on and as many rows of x from n on, to y.
void put_outputs(const Dense& g, float* sums, int64_t n, int64_t o, const float* bias, uint16_t* y) {
  const int64_t left = g.O - o;
  const V low = bias ? floats(bias + o, left) : all(0.0f), high = bias ? floats(bias + o + kSide, left - kSide) : all(0.0f);
  for (int64_t half = 0; half < 2; ++half, n += kSide) {
    V first[kSide], second[kSide];
    for (int64_t i = 0; i < kSide; ++i) {
      first[i] = _mm512_load_ps(sums + i * kBlock + half * kSide);
      second[i] = _mm512_load_ps(sums + (kSide + i) * kBlock + half * kSide);
    }
    transpose(first), transpose(second);
    for (int64_t i = 0; i < kSide && n + i < g.N; ++i)
      store(y + (n + i) * g.O + o, halves(first[i] + low, second[i] + high), left);
  }
}

void forward(const Dense& g, const uint16_t* x, const float* w, const float* bias, uint16_t* y, int threads) {
  threads = g.threads(threads);
  Space<uint16_t> pairs(g.n * g.c * kPair);
  over_blocks(g.n * g.c, threads, [&](int64_t b0, int64_t b1) {
    for (int64_t b = b0; b < b1; ++b)
      Block(x, g.N, g.C, b / g.c * kBlock, b % g.c * kBlock).put_column_pairs(pairs + b * kPair);
  });
  const int64_t most = std::min(kRows, g.n);
  over_blocks(g.turns() * g.o, threads, [&](int64_t b0, int64_t b1) {
    const UnitsFor units(kBlock);
    Space<uint16_t> rounded(kSteps * kPair);
    Space<float> sums(std::min(kGroup, b1 - b0) * most * kPair);
    for_runs(b0, b1, g.o, kGroup, [&](int64_t first, int64_t last) {
      const int64_t o = first % g.o, n0 = first / g.o * kRows, n1 = std::min(n0 + kRows, g.n);
      for (int64_t c = 0; c < g.c; c += kSteps)
        for (int64_t b = first; b < last; ++b) {
          const int64_t out = (o + b - first) * kBlock, count = std::min(kSteps, g.c - c);
          round_rows(w + out * g.C, g.O - out, g.C, c * kBlock, count, rounded);
          for (int64_t n = n0; n < n1; ++n)
            multiply(count, rounded, g.O - out > kSide, pairs + (n * g.c + c) * kPair, g.N - n * kBlock > kSide,
                     sums + ((b - first) * most + n - n0) * kPair, kBlock, c > 0);
        }
      for (int64_t b = first; b < last; ++b)
        for (int64_t n = n0; n < n1; ++n)
          put_outputs(g, sums + ((b - first) * most + n - n0) * kPair, n * kBlock, (o + b - first) * kBlock, bias, y);
    });
  });
}

// --- backward --------------------------------------------------------------------------------------------------------

struct Backward {
  const Dense& g;
  const uint16_t *x, *dy;
  const float* w;
  uint16_t* dx;
  float *dw, *db;  // each may be null, as dx: it is not computed then
  Space<uint16_t> rows{dx ? g.n * g.o * kPair : 1}, turned{dw ? g.o * g.n * kPair : 1}, pairs{dw ? g.c * g.n * kPair : 1};
  bool stream = g.C % kSide == 0 && reinterpret_cast<uintptr_t>(dw) % 64 == 0 && g.O * g.C * 4 > kStream;

  void pack_gradient(int64_t o) const {
    V sums[2] = {all(0.0f), all(0.0f)};
    for (int64_t n = 0; n < g.n; ++n) {
      Block block(dy, g.N, g.O, n * kBlock, o * kBlock);
      if (db) block.add_to(sums);
      if (dx) block.put_rows(rows + (n * g.o + o) * kPair);
      if (dw) block.put_columns(turned + (o * g.n + n) * kPair);
    }
    if (!db) return;
    const int64_t left = g.O - o * kBlock;
    _mm512_mask_storeu_ps(db + o * kBlock, lanes(left), sums[0]);
    _mm512_mask_storeu_ps(db + o * kBlock + kSide, lanes(left - kSide), sums[1]);
  }
  void pack_input(int64_t c) const {
    for (int64_t n = 0; n < g.n; ++n)
      Block(x, g.N, g.C, n * kBlock, c * kBlock).put_pairs(pairs + (c * g.n + n) * kPair);
  }
  // to[c][step][16 pairs of outputs][16 inputs][2] and 16 inputs more: kWide blocks of inputs, `count` steps of outputs,
  // zeros outside. What comes next is fetched.
  void round_pairs(int64_t o, int64_t c, int64_t count, uint16_t* to) const {
    for (int64_t i = 0; i < count * kBlock; i += 2) {
      const int64_t out = o * kBlock + i, pair = i / kBlock * kPair + i % kBlock * kSide;
      const float* row = w + out * g.C + c * kBlock;
      for (int64_t j = 0; j < std::min(kWide, g.c - c) * 2; ++j) {
        const int64_t left = g.C - c * kBlock - j * kSide;
        const float* at = row + j * kSide;
        const char* next = (const char*)(at + kDeep * kBlock * g.C);
        _mm_prefetch(next, _MM_HINT_T0);
        _mm_prefetch(next + g.C * 4, _MM_HINT_T0);
        const V a = out < g.O ? floats(at, left) : all(0.0f), b = out + 1 < g.O ? floats(at + g.C, left) : all(0.0f);
        _mm512_store_si512(to + j / 2 * count * kPair + j % 2 * kTile + pair, pairs_of(a, b));
      }
    }
  }
  int64_t strips() const { return (g.c + kWide - 1) / kWide; }
  void input(int64_t b, uint16_t* rounded, float* sums) const {  // kRows blocks of the batch, kWide of inputs
    const int64_t n0 = b / strips() * kRows, n1 = std::min(n0 + kRows, g.n), c0 = b % strips() * kWide;
    const int64_t width = std::min(kWide, g.c - c0), row = kWide * kBlock;
    for (int64_t o = 0; o < g.o; o += kDeep) {
      const int64_t count = std::min(kDeep, g.o - o);
      round_pairs(o, c0, count, rounded);
      for (int64_t n = n0; n < n1; ++n)
        for (int64_t c = 0; c < width; ++c)
          multiply(count, rows + (n * g.o + o) * kPair, g.N - n * kBlock > kSide, rounded + c * count * kPair,
                   g.C - (c0 + c) * kBlock > kSide, sums + (n - n0) * kBlock * row + c * kBlock, row, o > 0);
    }
    for (int64_t n = n0 * kBlock; n < std::min(n1 * kBlock, g.N); ++n)
      for (int64_t c = 0; c < width; ++c) {
        const float* from = sums + (n - n0 * kBlock) * row + c * kBlock;
        const __m512i both = halves(_mm512_load_ps(from), _mm512_load_ps(from + kSide));
        store(dx + n * g.C + (c0 + c) * kBlock, both, g.C - (c0 + c) * kBlock);
      }
  }
  int64_t slices() const { return (g.c + kSlice - 1) / kSlice; }
  void weights(int64_t b, float* sums) const {  // 32 outputs, kSlice blocks of inputs
    const int64_t o = b % g.o, c0 = b / g.o * kSlice, c1 = std::min(c0 + kSlice, g.c), row = kSlice * kBlock;
    for (int64_t n = 0; n < g.n; n += kRows)
      for (int64_t c = c0; c < c1; ++c)
        multiply(std::min(kRows, g.n - n), turned + (o * g.n + n) * kPair, g.O - o * kBlock > kSide,
                 pairs + (c * g.n + n) * kPair, g.C - c * kBlock > kSide, sums + (c - c0) * kBlock, row, n > 0);
    for (int64_t i = 0; i < std::min(kBlock, g.O - o * kBlock); ++i) {
      float* to = dw + (o * kBlock + i) * g.C;
      const float* from = sums + i * row;
      for (int64_t c = c0 * kBlock; c < std::min(c1 * kBlock, g.C); c += kSide, from += kSide)
        if (stream) _mm512_stream_ps(to + c, _mm512_load_ps(from));
        else _mm512_mask_storeu_ps(to + c, lanes(g.C - c), _mm512_load_ps(from));
    }
  }
  void run(int threads) const {
    threads = g.threads(threads);
    over_blocks(g.o + (dw ? g.c : 0), threads, [&](int64_t b0, int64_t b1) {
      for (int64_t b = b0; b < b1; ++b) b < g.o ? pack_gradient(b) : pack_input(b - g.o);
    });
    const int64_t inputs = dx ? g.turns() * strips() : 0, both = inputs + (dw ? g.o * slices() : 0);
    if (!both) return;
    over_blocks(both, threads, [&](int64_t b0, int64_t b1) {
      const UnitsFor units(kBlock);
      Space<uint16_t> rounded(kDeep * kWide * kPair);
      Space<float> sums(std::max(std::min(kRows, g.n) * kWide, kSlice) * kPair);
      for (int64_t b = b0; b < b1; ++b)
        if (b < inputs) input(b, rounded, sums);
        else weights(b - inputs, sums);
      _mm_sfence();  // behind the stores that pass the caches
    });
  }
};

}  // namespace

// `shape` is N, C, O: x (N, C), dy and y (N, O), w and dw (O, C), whole rows one behind the other.
extern "C" {

int convworks_linear_forward(const int64_t* shape, const uint16_t* x, const float* w, const float* bias, uint16_t* y,
                             int threads) {
  GUARDED((forward(Dense(shape), x, w, bias, y, threads), 0))
}
int convworks_linear_backward(const int64_t* shape, const uint16_t* x, const uint16_t* dy, const float* w, uint16_t* dx,
                              float* dw, float* db, int threads) {
  const Dense g(shape);
  GUARDED((Backward{g, x, dy, w, dx, dw, db}.run(threads), 0))
}

}  // extern "C"
#else
extern "C" {  // this processor lacks the instructions: nothing is called

int convworks_linear_forward(const int64_t*, const uint16_t*, const float*, const float*, uint16_t*, int) { return 1; }
int convworks_linear_backward(const int64_t*, const uint16_t*, const uint16_t*, const float*, uint16_t*, float*, float*,
                              int) {
  return 1;
}

}  // extern "C"
#endif
