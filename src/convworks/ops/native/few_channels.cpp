// Convolution of few channels in bfloat16 on the matrix units (AMX): forward, and the gradient of the weights. A window's
// row is then so short that a product of its own for each, as amx_convolution.cpp has it, would multiply mostly zeros.
//
// Forward, the maps are rewritten for every row of outputs so that all K numbers of a window follow each other: of each
// column of the padded map the numbers of all rows of the window, woven into one row. The next window begins one stride
// of columns later, so that 16 windows are rows of a tile at a constant distance, and a product takes 32 of the K.
//
// For the weights' gradient, number m of every stride of pixels lies in a plane of its own: the numbers that a weight
// meets are a shift of a plane. dw (K x O) is a product of K such shifts with pairs of pixels of dy, summed for bands of
// rows; a row of ones below them gives the bias's gradient. Images are shared out in parts, which depend on the shape
// alone, and the parts' sums are added in their order: the bits do not depend on the number of threads.
// Sources: Chetlur et al. 2014, section 3; Intel, "Intrinsics guide".

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>
#include "threads.h"
#include "amx_tiles.h"
#include "picks.h"
#if defined(MATRIX_UNITS) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512BF16__)
#include "half_vectors.h"

namespace {

constexpr int64_t kBand = 150000;      // bytes of the windows' numbers of a band, forward
constexpr int64_t kPairs = 300000;     // bytes of a band's pairs of pixels of dy
constexpr int64_t kParts = 2000000;    // bytes of the parts' sums, where there are at least 8 parts
constexpr int64_t kMostParts = 64;
constexpr uint16_t kOne = 0x3f80;

struct Few {  // the shape of a convolution
  int64_t N, H, W, C, O, rows, columns, stride, top, left, OH, OW, K, step, wide;  // step: numbers; wide: padded row
  explicit Few(const int64_t* v)
      : N(v[0]), H(v[1]), W(v[2]), C(v[3]), O(v[4]), rows(v[5]), columns(v[6]), stride(v[7]), top(v[8]), left(v[9]),
        OH((H + 2 * top - rows) / stride + 1), OW((W + 2 * left - columns) / stride + 1), K(rows * columns * C),
        step(stride * C), wide((OW - 1) * stride + columns) {}
  int64_t steps() const { return up(K, kHalves) / kHalves; }
  int64_t terms() const { return up((K + steps() - 1) / steps(), 2); }  // of each product
};

// Rows first to last - 1 of image n as numbers from column -left on; zeros outside of the map, where `to` is zero before.
void padded_rows(const Few& g, const uint16_t* x, int64_t n, int64_t first, int64_t last, int64_t pitch, uint16_t* to) {
  const int64_t from = g.left * g.C, bytes = std::min(g.W * g.C, pitch - from) * 2;
  for (int64_t h = first; h < last; ++h, to += pitch)
    if (h < 0 || h >= g.H) std::memset(to + from, 0, size_t(bytes));
    else std::memcpy(to + from, x + (n * g.H + h) * g.W * g.C, size_t(bytes));
}

// --- forward ---------------------------------------------------------------------------------------------------------

struct Forward {
  const Few& g;
  int64_t deep = g.rows * g.C, steps = g.steps(), terms = g.terms();  // deep: numbers of a column
  int64_t apart = g.stride * deep;  // numbers from a window to the next
  int64_t source = up((g.wide + 2) * g.C + 2 * kHalves, kHalves);  // numbers of a padded row
  int64_t row = up((g.wide + 1) * deep, kHalves);  // numbers of a woven one, with a column of zeros at its end
  int64_t tiles = (g.OW + kSide - 1) / kSide, side = up(g.O, g.O > kSide ? kBlock : kSide);
  int64_t period = deep / std::gcd(deep, kHalves), vectors = row / kHalves;
  Picks picks = weave();

  Picks weave() const {
    Picks made;
    for (int64_t v = 0; v < period; ++v) {
      for (int64_t r = 0; r < g.rows; ++r)
        made.add(r, source, [&](int64_t lane) {
          const int64_t at = v * kHalves + lane, within = at % deep;
          return within / g.C == r ? at / deep * g.C + within % g.C : -1;
        });
      made.end_vector();
    }
    return made;
  }
  // Weights as the products read them: [16 outputs][step][pair of terms][output][2], in the order of the windows' numbers.
  void pack_weights(const float* w, const int64_t* st, uint16_t* u) const {
    for (int64_t o = 0; o < side; o += kSide)
      for (int64_t i = 0; i < steps * terms; i += 2) {
        V pair[2];
        for (int64_t k = i; k < i + 2; ++k) {
          const float* at = w + o * st[0] + k % g.C * st[1] + k / g.C % g.rows * st[2] + k / deep * st[3];
          pair[k - i] = k < g.K && o < g.O ? load_spread(at, st[0], lanes(g.O - o)) : all(0.0f);
        }
        _mm512_store_si512(u + (o / kSide * steps + i / terms) * kTile + i % terms * kSide, pairs_of(pair[0], pair[1]));
      }
  }
  void weave_row(const uint16_t* padded, uint16_t* to) const {
    const int64_t turn = period * kHalves / deep * g.C;  // numbers of a row that a period takes
    for (int64_t v = 0; v < vectors; v += period, padded += turn)
      for (int64_t i = 0; i < std::min(period, vectors - v); ++i, to += kHalves)
        _mm512_store_si512(to, picks.vector(i, [&](int64_t r, int64_t offset) {
          return _mm512_loadu_si512(padded + r * source + offset);
        }));
  }
  static void clear() { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
  // Sums of up to four tiles of windows by 16 outputs, or of two by 32.
  template <int COUNT> void sum_few(const uint16_t* const* a, const uint16_t* u, float* sums) const {
    const int64_t pitch = apart * 2;
    clear();
    for (int64_t i = 0; i < steps; ++i) {
      _tile_loadd(6, u + i * kTile, 64);
      _tile_loadd(4, a[0] + i * terms, pitch);
      _tile_dpbf16ps(0, 4, 6);
      if (COUNT > 1) { _tile_loadd(5, a[1] + i * terms, pitch); _tile_dpbf16ps(1, 5, 6); }
      if (COUNT > 2) { _tile_loadd(4, a[2] + i * terms, pitch); _tile_dpbf16ps(2, 4, 6); }
      if (COUNT > 3) { _tile_loadd(5, a[3] + i * terms, pitch); _tile_dpbf16ps(3, 5, 6); }
    }
    _tile_stored(0, sums, 64);
    if (COUNT > 1) _tile_stored(1, sums + 256, 64);
    if (COUNT > 2) _tile_stored(2, sums + 512, 64);
    if (COUNT > 3) _tile_stored(3, sums + 768, 64);
  }
  template <int COUNT> void sum_many(const uint16_t* const* a, const uint16_t* u, float* sums) const {
    const int64_t pitch = apart * 2;
    clear();
    for (int64_t i = 0; i < steps; ++i) {
      _tile_loadd(6, u + i * kTile, 64);
      _tile_loadd(7, u + (steps + i) * kTile, 64);
      _tile_loadd(4, a[0] + i * terms, pitch);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      if (COUNT > 1) { _tile_loadd(5, a[1] + i * terms, pitch); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7); }
    }
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + kSide, 128);
    if (COUNT > 1) { _tile_stored(2, sums + 512, 128); _tile_stored(3, sums + 512 + kSide, 128); }
  }
  // `count` rows of 16 or 32 sums to as many pixels of y, from output o on; nothing is written from `end` on.
  void put_few(const float* sums, int64_t count, V bias, uint16_t* to, const uint16_t* end) const {
    for (int64_t i = 0; i < count; i += 2, sums += 2 * kSide, to += 2 * g.O) {
      const __m512i both = halves(_mm512_load_ps(sums) + bias, _mm512_load_ps(sums + kSide) + bias);
      if (to + g.O + kSide <= end && i + 2 <= count) {  // what is written beyond a pixel is of those that follow it
        _mm256_storeu_si256((__m256i*)to, _mm512_castsi512_si256(both));
        _mm256_storeu_si256((__m256i*)(to + g.O), _mm512_extracti64x4_epi64(both, 1));
      } else {
        alignas(64) uint16_t each[kHalves];
        _mm512_store_si512(each, both);
        std::memcpy(to, each, size_t(g.O) * 2);
        if (i + 1 < count) std::memcpy(to + g.O, each + kSide, size_t(g.O) * 2);
      }
    }
  }
  void put_many(const float* sums, int64_t count, const float* bias, int64_t o, uint16_t* to, bool stream) const {
    const V low = _mm512_load_ps(bias + o), high = _mm512_load_ps(bias + o + kSide);
    for (int64_t i = 0; i < count; ++i, sums += kBlock, to += g.O) {
      const __m512i both = halves(_mm512_load_ps(sums) + low, _mm512_load_ps(sums + kSide) + high);
      if (stream) _mm512_stream_si512((__m512i*)to, both);
      else if (g.O - o >= kBlock) _mm512_storeu_si512(to, both);
      else _mm512_mask_storeu_epi16(to, (1u << (g.O - o)) - 1u, both);
    }
  }
  // All outputs of `height` rows whose windows' numbers lie in `band`.
  void multiply(const uint16_t* band, int64_t height, const uint16_t* u, const float* bias, uint16_t* y, bool stream) const {
    const int64_t total = height * tiles, at_once = side > kSide ? 2 : 4, next = apart * kSide;
    const uint16_t *a[4] = {}, *end = y + height * g.OW * g.O;
    uint16_t* to[4];
    int64_t counts[4];
    alignas(64) float sums[4 * kSide * kSide];
    for (int64_t q = 0; q < total; q += at_once) {
      const int64_t here = std::min(at_once, total - q);
      for (int64_t i = 0; i < here; ++i) {
        const int64_t h = (q + i) / tiles, tile = (q + i) % tiles;
        a[i] = band + h * row + tile * next;
        to[i] = y + (h * g.OW + tile * kSide) * g.O;
        counts[i] = std::min(kSide, g.OW - tile * kSide);
      }
      if (side == kSide) {
        for_column(here, [&](auto n) { sum_few<n.value>(a, u, sums); });
        for (int64_t i = 0; i < here; ++i) put_few(sums + i * 256, counts[i], _mm512_load_ps(bias), to[i], end);
      } else for (int64_t o = 0; o < g.O; o += kBlock) {
        const uint16_t* of = u + o / kSide * steps * kTile;
        if (here > 1) sum_many<2>(a, of, sums); else sum_many<1>(a, of, sums);
        for (int64_t i = 0; i < here; ++i) put_many(sums + i * 512, counts[i], bias, o, to[i] + o, stream);
      }
    }
  }
  void run(const uint16_t* x, const float* w, const int64_t* st, const float* bias, uint16_t* y, int threads) const {
    Space<uint16_t> u(side / kSide * steps * kTile);
    pack_weights(w, st, u);
    Space<float> added(side);
    for (int64_t o = 0; o < side; ++o) added[o] = bias && o < g.O ? bias[o] : 0.0f;
    const int64_t most = std::clamp<int64_t>(kBand / (row * 2), 1, g.OH), bands = (g.OH + most - 1) / most;
    const int64_t height = (most - 1) * g.stride + g.rows;  // padded rows
    const bool even = g.O % kBlock == 0 && reinterpret_cast<uintptr_t>(y) % 64 == 0;
    const bool stream = even && g.N * g.OH * g.OW * g.O * 2 > kStream;
    over_blocks(g.N * bands, threads, [&](int64_t b0, int64_t b1) {
      const UnitsFor units(terms);
      const int64_t room = most * row + kSide * apart + up(g.K, kHalves) + kHalves;  // the last tile's rows
      Space<uint16_t> band(room), padded(height * source + kHalves);
      std::memset(band, 0, size_t(room) * 2);
      std::memset(padded, 0, size_t(height * source + kHalves) * 2);
      for (int64_t b = b0; b < b1; ++b) {
        const int64_t n = b / bands, first = g.OH * (b % bands) / bands, last = g.OH * (b % bands + 1) / bands;
        padded_rows(g, x, n, first * g.stride - g.top, (last - 1) * g.stride - g.top + g.rows, source, padded);
        for (int64_t h = 0; h < last - first; ++h) weave_row(padded + h * g.stride * source, band + h * row);
        multiply(band, last - first, u, added, y + (n * g.OH + first) * g.OW * g.O, stream);
      }
      _mm_sfence();  // behind the stores that pass the caches
    });
  }
};

// --- the weights' gradient -------------------------------------------------------------------------------------------

struct WeightGradient {
  const Few& g;
  const uint16_t *x, *dy;
  int64_t span = (g.columns - 1) / g.stride, below = (g.rows - 1) / g.stride, phases = std::min(g.stride, g.rows);
  int64_t across = up(g.OW + span, 2), side = up(g.O, g.O > kSide ? kBlock : kSide);  // across: outputs in a padded row
  int64_t most = std::clamp<int64_t>(kPairs / (across * side * 2), 1, g.OH), bands = (g.OH + most - 1) / most;
  int64_t positions = up(most * across, kHalves), pitch = (positions / kHalves | 1) * kHalves;  // in many sets of the caches
  int64_t plane = up((most + below) * across + positions - most * across + span + 2 * kHalves, kHalves);
  int64_t high = g.O > kSide ? kBlock : 2 * kBlock, K = up(g.K + 1, high);  // shifts at a time; of all
  int64_t source = up((across + kHalves) * g.step + kHalves, kHalves);  // numbers of a padded row
  int64_t parts = std::min(g.N, std::clamp<int64_t>(kParts / (K * side * 4), 8, kMostParts));
  Picks picks = split();

  Picks split() const {  // number m of every stride
    Picks made;
    for (int64_t m = 0; m < g.step; ++m) {
      made.add(0, source, [&](int64_t lane) { return lane * g.step + m; });
      made.end_vector();
    }
    return made;
  }
  // planes[phase][m][row of the phase][output]
  void pack_planes(const uint16_t* padded, int64_t height, uint16_t* planes) const {
    for (int64_t f = 0; f < phases; ++f)
      for (int64_t m = 0; m < g.step; ++m) {
        uint16_t* to = planes + (f * g.step + m) * plane;
        for (int64_t h = f; h < height; h += g.stride, to += across)
          for (int64_t i = 0; i < across; i += kHalves)  // what is written beyond a row is of the next
            _mm512_storeu_si512(to + i, picks.vector(m, [&](int64_t, int64_t offset) {
              return _mm512_loadu_si512(padded + h * source + i * g.step + offset);
            }));
        const int64_t left = planes + (f * g.step + m + 1) * plane - to;
        if (left > 0) std::memset(to, 0, size_t(left) * 2);
      }
  }
  // pairs[position / 32][16 outputs][16 pairs of positions][16][2]; of 32 outputs the first tile has 0 to 3, 8 to 11, ...
  void pack_pairs(const uint16_t* from, int64_t height, uint16_t* pairs) const {
    const __m512i order = pair_order();
    const int64_t tiles = side / kSide, all_tiles = tiles * kTile;
    for (int64_t h = 0; h < height; ++h)
      for (int64_t i = 0; i < across; i += 2) {
        const int64_t at = h * across + i, valid = std::min<int64_t>(2, g.OW - i);
        uint16_t* to = pairs + at / kHalves * all_tiles + at % kHalves * kSide;
        const uint16_t* pixel = from + (h * g.OW + i) * g.O;
        if (tiles == 1) {
          const __m512i both = valid > 0 ? _mm512_maskz_loadu_epi16(first(valid * g.O), pixel) : _mm512_setzero_si512();
          _mm512_store_si512(to, _mm512_maskz_permutexvar_epi16(first(2 * g.O), order, both));
          continue;
        }
        for (int64_t o = 0; o < g.O; o += kBlock, to += 2 * kTile) {
          const uint32_t m = first(g.O - o);
          const __m512i a = _mm512_maskz_loadu_epi16(valid > 0 ? m : 0, pixel + o);
          const __m512i b = _mm512_maskz_loadu_epi16(valid > 1 ? m : 0, pixel + g.O + o);
          _mm512_store_si512(to, _mm512_unpacklo_epi16(a, b));
          _mm512_store_si512(to + kTile, _mm512_unpackhi_epi16(a, b));
        }
      }
    for (int64_t at = height * across; at < up(height * across, kHalves); at += 2)
      for (int64_t t = 0; t < tiles; ++t)
        std::memset(pairs + at / kHalves * all_tiles + t * kTile + at % kHalves * kSide, 0, 64);
  }
  static uint32_t first(int64_t n) { return n >= kHalves ? ~0u : (1u << n) - 1u; }
  __m512i pair_order() const {
    alignas(64) uint16_t from[kHalves];
    for (int64_t i = 0; i < kHalves; ++i) from[i] = uint16_t(i / 2 + i % 2 * g.O);
    return _mm512_load_si512(from);
  }
  // Shifts k to k + high - 1 of the planes as rows of `shifts`.
  void pack_shifts(const uint16_t* planes, int64_t k, int64_t count, uint16_t* shifts) const {
    for (const int64_t last = std::min(k + high, g.K + 1); k < last; ++k, shifts += pitch) {
      if (k == g.K) {
        std::fill(shifts, shifts + count, kOne);
        break;
      }
      const int64_t r = k / (g.columns * g.C), number = k % (g.columns * g.C);
      const uint16_t* from = planes + (r % g.stride * g.step + number % g.step) * plane + r / g.stride * across +
                             number / g.step;
      for (int64_t i = 0; i < count; i += kHalves) _mm512_store_si512(shifts + i, _mm512_loadu_si512(from + i));
    }
  }
  void multiply(const uint16_t* planes, const uint16_t* pairs, int64_t count, uint16_t* shifts, float* du, bool add) const {
    const int64_t blocks = count / kHalves, all_tiles = side / kSide * kTile;
    auto rows_of = [&](int64_t i) { return shifts + i * kHalves; };
    const Layout of_shifts{pitch * 2, kSide * pitch * 2};
    for (int64_t k = 0; k <= g.K; k += high) {
      pack_shifts(planes, k, count, shifts);
      for (int64_t o = 0; o < g.O; o += kBlock) {
        auto next = [&](int64_t i) { return pairs + i * all_tiles + o / kSide * kTile; };
        float* sums = du + k * side + o;
        if (side == kSide)
          for_column((g.K - k) / kSide + 1, [&](auto n) {
            tile_column<n.value>(blocks, rows_of, of_shifts, next, 64, sums, kSide * side, side, add);
          });
        else
          for_block(g.K - k >= kSide, true, [&](auto down, auto aside) {
            tile_sums<down.value, aside.value>(blocks, rows_of, of_shifts, next, {64, kTile * 2}, sums, side, add);
          });
      }
    }
  }
  void part(int64_t p, float* du) const {
    const int64_t rows = (most - 1) * g.stride + g.rows;
    Space<uint16_t> padded(rows * source), planes(phases * g.step * plane + 2 * kHalves);
    std::memset(padded, 0, size_t(rows * source) * 2);
    Space<uint16_t> pairs(positions * side), shifts(high * pitch);
    bool add = false;
    for (int64_t n = g.N * p / parts; n < g.N * (p + 1) / parts; ++n)
      for (int64_t b = 0; b < bands; ++b, add = true) {
        const int64_t from = g.OH * b / bands, to = g.OH * (b + 1) / bands, top = from * g.stride - g.top;
        const int64_t height = (to - from - 1) * g.stride + g.rows;
        padded_rows(g, x, n, top, top + height, source, padded);
        pack_planes(padded, height, planes);
        pack_pairs(dy + (n * g.OH + from) * g.OW * g.O, to - from, pairs);
        multiply(planes, pairs, up((to - from) * across, kHalves), shifts, du, add);
      }
  }
  // The sums of all parts: rows 0 to K - 1 are the weights', row K is the bias's.
  void finish(const float* du, float* dw, const int64_t* st, float* db) const {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i upper = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (int64_t k = 0; k < (db ? g.K + 1 : g.K); ++k) {
      const int64_t c = k % g.C, column = k / g.C % g.columns, r = k / g.C / g.columns, apart = k < g.K ? st[0] : 1;
      float* to = k < g.K ? dw + c * st[1] + r * st[2] + column * st[3] : db;
      for (int64_t o = 0; o < g.O; o += kBlock) {
        V sums[2] = {all(0.0f), all(0.0f)};
        for (int64_t p = 0; p < parts; ++p)
          for (int64_t t = 0; t < std::min<int64_t>(2, side / kSide); ++t)
            sums[t] += _mm512_load_ps(du + (p * K + k) * side + o + t * kSide);
        const V one = side == kSide ? sums[0] : _mm512_permutex2var_ps(sums[0], low, sums[1]);
        store_spread(to + o * apart, apart, lanes(g.O - o), one);
        if (g.O - o > kSide)
          store_spread(to + (o + kSide) * apart, apart, lanes(g.O - o - kSide),
                       _mm512_permutex2var_ps(sums[0], upper, sums[1]));
      }
    }
  }
  void run(float* dw, const int64_t* st, float* db, int threads) const {
    Space<float> du(parts * K * side);
    over_blocks(parts, threads, [&](int64_t p0, int64_t p1) {
      const UnitsFor units(kHalves);
      for (int64_t p = p0; p < p1; ++p) part(p, du + p * K * side);
    });
    finish(du, dw, st, db);
  }
};

}  // namespace

// As convworks_amx_forward and convworks_amx_weight of amx_convolution.cpp; nothing is flipped, and db, (O,) or null, is
// the bias's gradient.
extern "C" {

int convworks_few_forward(const int64_t* shape, const uint16_t* x, const float* w, const int64_t* st, const float* bias,
                          uint16_t* y, int threads) {
  const Few g(shape);
  GUARDED((Forward{g}.run(x, w, st, bias, y, threads), 0))
}
int convworks_few_weight(const int64_t* shape, const uint16_t* x, const uint16_t* dy, float* dw, const int64_t* st,
                         float* db, int threads) {
  const Few g(shape);
  GUARDED((WeightGradient{g, x, dy}.run(dw, st, db, threads), 0))
}

}  // extern "C"
#else
extern "C" {  // this processor lacks the instructions: neither is called

int convworks_few_forward(const int64_t*, const uint16_t*, const float*, const int64_t*, const float*, uint16_t*, int) {
  return 1;
}
int convworks_few_weight(const int64_t*, const uint16_t*, const uint16_t*, float*, const int64_t*, float*, int) {
  return 1;
}

}  // extern "C"
#endif
