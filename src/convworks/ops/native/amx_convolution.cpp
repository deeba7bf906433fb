// Convolution in bfloat16 on the matrix units (AMX), as products of matrices that are never written down: forward, which
// is also the gradient of x where the stride is 1, and the gradient of the weights.
//
// A window's numbers in one row of the map, all its columns and channels, follow each other in memory: a run. In a
// padded map the run of the next output begins `pixel` = stride x channels numbers later, also across the rows' ends,
// once the rows that one row of the window meets lie together (every stride-th: a phase). So 16 successive runs are
// rows of a tile at a constant distance. Outputs that begin in the padding between two rows are computed, and dropped.
//
// Forward, threads share out bands: rows of an image, or several images where the weights are too many for L2. For the
// weights' gradient, dy is written down transposed and x in pairs of pixels, for a group of images at a time; a tap is then
// a shift of x. There are two sorts of pairs, those that begin with even pixels and those that begin with odd ones, so that
// tiles lie in whole cache lines for every shift: across lines, loading one takes three times as long as multiplying it.
// Five shifts share a tile of dy. Threads share out slices of the images, each with sums of its own, so that a thread reads
// only what it has written itself; where the sums are too many for that, the taps and channels. Slices and groups depend on
// the shape alone and sums run in the order of the pixels: the bits do not depend on the number of threads. The groups of
// a grouped convolution are computed one after the other. Sources: Chetlur et al. 2014, section 3; Intel, "Intrinsics
// guide", AMX-BF16.

#include <algorithm>
#include <cstdint>
#include "threads.h"
#include "amx_tiles.h"
#if defined(MATRIX_UNITS) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512BF16__)
#include "half_vectors.h"

namespace {

constexpr int64_t kBand = 400000;   // bytes of the padded rows of a band: a part of L2
constexpr int64_t kHeavy = 600000;  // bytes of weights that a band drives out of L2
constexpr int64_t kGroup = 800000;  // bytes of a group's pairs of pixels, and of its transposed gradient, or more where
constexpr int64_t kChunk = 500000;  // bytes of a group's pairs that meet all of its gradient, one part after the other
constexpr int64_t kMostGroup = 3200000;  // the sums, which each group reads and writes, are more
constexpr int64_t kSums = 2400000, kShare = 2, kFewSlices = 4, kSlices = 16;  // see slices_for; the first in bytes

struct Window {  // the shape of a convolution, or of one of its groups: then maps have more channels than C and O
  int64_t N, H, W, C, O, rows, columns, stride, top, left, groups, OH, OW;  // rows and columns: of the window
  int64_t CC, OO;                                                           // channels of the maps
  int64_t pixel, run, across, below;  // numbers; outputs in a padded row; rows of a phase beyond those of the outputs
  explicit Window(const int64_t* v)
      : N(v[0]), H(v[1]), W(v[2]), C(v[3]), O(v[4]), rows(v[5]), columns(v[6]), stride(v[7]), top(v[8]), left(v[9]),
        groups(v[10]), OH((H + 2 * top - rows) / stride + 1), OW((W + 2 * left - columns) / stride + 1), CC(C * groups),
        OO(O * groups), pixel(stride * C), run(columns * C), across(OW + (columns - 1) / stride),
        below((rows - 1) / stride) {}
  int64_t steps() const { return up(run, 2 * kSide) / (2 * kSide); }  // products for a run
  int64_t terms() const { return up((run + steps() - 1) / steps(), 2); }  // numbers of each
};

// --- forward ---------------------------------------------------------------------------------------------------------

inline uint16_t half_of(float f) { return uint16_t(_mm512_cvtsi512_si32(halves(all(f), all(f)))); }

// u[o / 32][row of the window][step][2][16 pairs][16 o][2], zeros where there is nothing. w has the strides st: of o, c,
// row and column. flip: the window is turned by half a turn.
void pack_weights(const Window& g, const float* w, const int64_t* st, bool flip, uint16_t* u, int threads) {
  const int64_t steps = g.steps(), terms = g.terms();
  over_blocks(up(g.O, kBlock) / kBlock * g.rows, threads, [&](int64_t b0, int64_t b1) {
    for (int64_t b = b0; b < b1; ++b) {
      const int64_t row = b % g.rows;
      uint16_t* to = u + b * steps * 2 * kTile;
      std::memset(to, 0, size_t(steps * 2 * kTile) * 2);
      for (int64_t o = b / g.rows * kBlock, half = 0; half < 2 && o < g.O; ++half, o += kSide)
        for (int64_t column = 0; column < g.columns; ++column) {
          const float* tap = w + o * st[0] + (flip ? g.rows - 1 - row : row) * st[2] +
                             (flip ? g.columns - 1 - column : column) * st[3];
          auto place = [&](int64_t c) {
            const int64_t at = column * g.C + c, within = at % terms;
            return to + (at / terms * 2 + half) * kTile + within / 2 * 2 * kSide + within % 2;
          };
          if (g.C % 2)
            for (int64_t c = 0; c < g.C; ++c)
              for (int64_t i = 0; i < std::min(kSide, g.O - o); ++i) place(c)[2 * i] = half_of(tap[i * st[0] + c * st[1]]);
          else
            for (int64_t c = 0; c < g.C; c += kSide) {
              V taps[kSide];
              load_block(tap + c * st[1], st[0], st[1], g.O - o, g.C - c, taps);
              for (int64_t i = 0; i < std::min(kSide, g.C - c); i += 2)
                _mm512_storeu_si512(place(c + i), pairs_of(taps[i], taps[i + 1]));
            }
        }
    }
  });
}

// Row h of image n, `across` x stride pixels from -left on; zeros outside of the map.
void padded_row(const Window& g, const uint16_t* x, int64_t n, int64_t h, uint16_t* to) {
  const int64_t whole = g.across * g.stride, inside = std::min(g.W, whole - g.left), after = whole - g.left - inside;
  if (h < 0 || h >= g.H) { std::memset(to, 0, size_t(whole * g.C) * 2); return; }
  std::memset(to, 0, size_t(g.left * g.C) * 2);
  const uint16_t* row = x + (n * g.H + h) * g.W * g.CC;
  for (int64_t i = 0, at_once = g.groups > 1 ? 1 : inside; i < inside; i += at_once)
    std::memcpy(to + (g.left + i) * g.C, row + i * g.CC, size_t(at_once * g.C) * 2);
  std::memset(to + (g.left + inside) * g.C, 0, size_t(after * g.C) * 2);
}

struct Results {  // the sums of 32 outputs, from number q of a band on, and of 32 channels to y
  const Window& g;
  const float* bias;
  uint16_t* y;          // of the band's first image
  const uint16_t* add;  // maps as y, or none
  int64_t rows;
  bool stream;

  void put(const float* sums, int64_t image, int64_t q, int64_t o) const {
    const int64_t left = g.O - o;
    if (left <= kSide) { put_few(sums, image, q, o); return; }
    const V low = bias ? _mm512_maskz_loadu_ps(lanes(left), bias + o) : all(0.0f);
    const V high = bias ? _mm512_maskz_loadu_ps(lanes(left - kLane), bias + o + kLane) : all(0.0f);
    int64_t row = q / g.across, column = q % g.across;
    for (int64_t i = 0; i < kBlock && row < rows; ++i, sums += kBlock) {
      if (column < g.OW) {
        const int64_t at = ((image * g.OH + row) * g.OW + column) * g.OO + o;
        const Added more = added(add ? add + at : nullptr, left);
        uint16_t* to = y + at;
        const __m512i both = halves(_mm512_load_ps(sums) + low + more.low, _mm512_load_ps(sums + kLane) + high + more.high);
        if (stream) _mm512_stream_si512((__m512i*)to, both);
        else if (left >= kBlock) _mm512_storeu_si512(to, both);
        else _mm512_mask_storeu_epi16(to, (1u << left) - 1u, both);
      }
      if (++column == g.across) column = 0, ++row;
    }
  }
  void put_few(const float* sums, int64_t image, int64_t q, int64_t o) const {  // of 16 channels, or fewer
    const __mmask16 of = lanes(g.O - o);
    const V own = bias ? _mm512_maskz_loadu_ps(of, bias + o) : all(0.0f);
    const bool together = g.O == kSide && g.OO == kSide;  // the numbers of two outputs in a row
    int64_t row = q / g.across, column = q % g.across;
    for (int64_t i = 0; i < kBlock && row < rows; ++row, column = 0) {
      const int64_t run = std::min(kBlock - i, g.across - column), inside = std::min(run, g.OW - column);
      int64_t k = 0, at = ((image * g.OH + row) * g.OW + column) * g.OO + o;
      for (; together && k + 1 < inside; k += 2, sums += 2 * kBlock, at += kBlock) {
        const Added more = added(add ? add + at : nullptr, kBlock);
        const V first = _mm512_load_ps(sums) + own + more.low, second = _mm512_load_ps(sums + kBlock) + own + more.high;
        _mm512_storeu_si512(y + at, halves(first, second));
      }
      for (; k < inside; ++k, sums += kBlock, at += g.OO) {
        const Added more = added(add ? add + at : nullptr, g.O - o);
        _mm256_mask_storeu_epi16(y + at, of, (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(sums) + own + more.low));
      }
      sums += (run - k) * kBlock, i += run;
    }
  }
};

struct Band {  // rows of one image, or some images whole
  int64_t images, rows, apart;  // numbers from one image's padded rows to the next one's
};

// All outputs of a band: `offsets` are those of the numbers that each step multiplies, from an output's first one.
void multiply(const Window& g, const uint16_t* padded, const Band& band, const int64_t* offsets, const uint16_t* u,
              const Results& results) {
  const int64_t count = g.rows * g.steps(), outputs = band.rows * g.across;
  const Layout runs{g.pixel * 2, kSide * g.pixel * 2}, taps{64, kTile * 2};
  alignas(64) float sums[2 * kBlock * kBlock];
  for (int64_t o = 0; o < g.O; o += kBlock) {
    const uint16_t* of = u + o / kBlock * count * 2 * kTile;
    auto next = [&](int64_t i) { return of + i * 2 * kTile; };
    const int64_t narrow = g.O - o <= kSide, at_once = narrow ? 2 * kBlock : kBlock;
    for (int64_t image = 0; image < band.images; ++image)
      for (int64_t q = 0; q < outputs; q += at_once) {
        const uint16_t* from = padded + image * band.apart + q * g.pixel;
        auto rows_of = [&](int64_t i) { return from + offsets[i]; };
        if (narrow)
          for_column((outputs - q + kSide - 1) / kSide, [&](auto n) {
            tile_column<n.value>(count, rows_of, runs, next, 64, sums, kSide * kBlock, kBlock, false);
          });
        else
          for_block(outputs - q > kSide, true, [&](auto down, auto aside) {
            tile_sums<down.value, aside.value>(count, rows_of, runs, next, taps, sums, kBlock, false);
          });
        for (int64_t i = 0; i < at_once && q + i < outputs; i += kBlock) results.put(sums + i * kBlock, image, q + i, o);
      }
  }
}

void forward(const Window& g, const uint16_t* x, const float* w, const int64_t* st, bool flip, const float* bias,
             const uint16_t* add, uint16_t* y, int threads) {
  const int64_t steps = g.steps(), count = g.rows * steps, row = g.across * g.pixel, phases = std::min(g.stride, g.rows);
  Space<uint16_t> u(up(g.O, kBlock) / kBlock * count * 2 * kTile);
  pack_weights(g, w, st, flip, u, threads);
  const int64_t most = std::clamp<int64_t>(kBand / (phases * row * 2) - g.below, 1, g.OH);
  const int64_t bands = (g.OH + most - 1) / most, phase = (most + g.below) * row, apart = phases * phase;
  const bool heavy = up(g.O, kBlock) * count * kBlock * 2 > kHeavy;  // weights from afar: for some images at a time
  const int64_t most_images = 1 + (g.N - 1) / (4 * threads);  // each thread has four bands
  const int64_t images = bands > 1 || !heavy ? 1 : std::clamp<int64_t>(kBand / (apart * 2), 1, most_images);
  const bool aligned = g.O % kBlock == 0 && reinterpret_cast<uintptr_t>(y) % 64 == 0;
  const bool stream = aligned && g.N * g.OH * g.OW * g.OO * 2 > kStream;
  Space<int64_t> offsets(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = i / steps;
    offsets[i] = r % g.stride * phase + r / g.stride * row + i % steps * g.terms();
  }
  over_blocks((g.N + images - 1) / images * bands, threads, [&](int64_t b0, int64_t b1) {
    const UnitsFor units(g.terms());
    const int64_t room = images * apart + (2 * kBlock + 1) * g.pixel + g.run + 64;  // the last block's rows may be beyond
    Space<uint16_t> padded(room);
    std::memset(padded.at, 0, size_t(room) * 2);
    for (int64_t b = b0; b < b1; ++b) {
      const int64_t n0 = b / bands * images, first = g.OH * (b % bands) / bands, last = g.OH * (b % bands + 1) / bands;
      const Band band{std::min(images, g.N - n0), last - first, apart};
      for (int64_t n = 0; n < band.images; ++n)
        for (int64_t f = 0; f < phases; ++f) {
          uint16_t* to = padded + n * apart + f * phase;
          for (int64_t i = first; i < last + g.below; ++i, to += row) padded_row(g, x, n0 + n, i * g.stride + f - g.top, to);
          if (n + 1 == band.images) std::memset(to, 0, 128);  // what a last step reads beyond a run must be a number
        }
      const int64_t at = (n0 * g.OH + first) * g.OW * g.OO;
      multiply(g, padded, band, offsets, u, {g, bias, y + at, add ? add + at : nullptr, band.rows, stream});
    }
    _mm_sfence();  // behind the stores that pass the caches
  });
}

// --- the weights' gradient -------------------------------------------------------------------------------------------

struct WeightGradient {
  const Window& g;
  const uint16_t *x, *dy;
  float* dw;
  const int64_t* st;
  // Of each padded pixel `take` numbers meet each number of dy: one stride's, with a shift of x for each that the window
  // spans, or a whole run, which costs fewer products where there are few channels.
  int64_t shifts = (g.columns - 1) / g.stride + 1, phases = std::min(g.stride, g.rows);
  bool whole = g.groups == 1 && g.run <= int64_t(sizeof kZeros / 2) && up(g.run, kSide) < shifts * up(g.pixel, kSide);
  int64_t take = whole ? g.run : g.pixel, width = whole ? g.columns : g.stride, spans = whole ? 1 : shifts;
  int64_t M = up(take, kSide), O = up(g.O, kSide), image = (g.OH + g.below) * g.across;  // padded outputs of an image
  int64_t beyond = g.below * g.across + spans;  // the largest shift is one less
  int64_t parities = g.below * g.across + spans > 1 ? 2 : 1;
  int64_t sums = g.rows * spans * up(O, kBlock) * M, slices = slices_for(sums * 4);
  int64_t share = (g.N + slices - 1) / slices, room = std::clamp(g.rows * spans * O * M * 4, kGroup, kMostGroup);
  int64_t images = std::clamp<int64_t>(room / (image * (phases * parities * M + O)), 1, share);
  int64_t turns = (share + images - 1) / images, most = up((share + turns - 1) / turns * image, kBlock);  // of a group
  int64_t plane = up(most + beyond, kBlock) * kSide, strip = most * kSide;  // numbers of 16 of x's, and of 16 of dy's

  int64_t slices_for(int64_t bytes) const {  // what summing them up costs is to be little beside what reading the maps does
    const int64_t maps = g.N * (g.H * g.W * g.CC + g.OH * g.OW * g.OO) * 2;
    const int64_t affordable = std::min(kSums, maps / kShare) / bytes;
    return affordable < kFewSlices ? 1 : std::min({affordable, kSlices, g.N});
  }

  // Where the numbers are that belong to the padded outputs from r0 on, of rows of phase f: in the map, in `copies` with
  // zeros outside of it, or zeros.
  void find(int64_t n0, int64_t r0, int64_t f, int64_t total, uint16_t* copies, const uint16_t** at, int64_t count) const {
    int64_t n = n0 + r0 / image, h = r0 % image / g.across, column = r0 % g.across, i = 0;
    const int64_t inside = std::clamp<int64_t>(total - r0, 0, count);
    while (i < inside) {
      const int64_t end = std::min(inside, i + g.across - column), line = f + g.stride * h - g.top;
      if (line < 0 || line >= g.H) {
        for (; i < end; ++i) at[i] = kZeros;
      } else {
        const uint16_t* row = x + (n * g.H + line) * g.W * g.CC;
        for (int64_t from = g.stride * column - g.left; i < end; ++i, from += g.stride)
          at[i] = from >= 0 && from + width <= g.W ? row + from * g.CC : partly(row, from, copies + i * up(take, kBlock));
      }
      column = 0;
      if (++h == g.OH + g.below) h = 0, ++n;
    }
    for (; i < count; ++i) at[i] = kZeros;
  }
  const uint16_t* partly(const uint16_t* row, int64_t from, uint16_t* copy) const {
    const int64_t first = std::max<int64_t>(from, 0), last = std::min(from + width, g.W);
    if (first >= last) return kZeros;
    std::memset(copy, 0, size_t(take) * 2);
    std::memcpy(copy + (first - from) * g.C, row + first * g.CC, size_t((last - first) * g.C) * 2);
    return copy;
  }
  static __m512i numbers(const uint16_t* from, int64_t count) {
    if (count >= 2 * kLane) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi16((1u << count) - 1u, from);
  }
  // pairs[phase][parity][m / 16][r / 2][16 m][2] for r0 <= r < r0 + 32: of pixels 2i and 2i + 1, and of 2i + 1 and 2i + 2
  void pack_pairs(int64_t n0, int64_t r0, int64_t total, uint16_t* copies, uint16_t* pairs) const {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                         39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    const uint16_t* at[kBlock + 1];
    for (int64_t f = 0; f < phases; ++f) {
      find(n0, r0, f, total, copies, at, kBlock + 1);
      for (int64_t m = 0; m < take; m += kBlock) {
        uint16_t* to = pairs + (f * parities * (M / kSide) + m / kSide) * plane + r0 * kSide;
        const bool more = take - m > kSide;
        __m512i a = numbers(at[0] + m, take - m);
        for (int64_t i = 0; i < kBlock; i += 2, to += 2 * kSide) {
          const __m512i b = numbers(at[i + 1] + m, take - m), c = numbers(at[i + 2] + m, take - m);
          _mm512_store_si512(to, _mm512_permutex2var_epi16(a, low, b));
          if (more) _mm512_store_si512(to + plane, _mm512_permutex2var_epi16(a, high, b));
          if (parities > 1) {
            uint16_t* odd = to + M / kSide * plane;
            _mm512_store_si512(odd, _mm512_permutex2var_epi16(b, low, c));
            if (more) _mm512_store_si512(odd + plane, _mm512_permutex2var_epi16(b, high, c));
          }
          a = c;
        }
      }
    }
  }
  // turned[o / 16][r / 32][16 o][32 r] for r0 <= r < r0 + 32; zeros in the padding
  void pack_gradient(int64_t n0, int64_t r0, int64_t total, uint16_t* turned) const {
    const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32,
                                          30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    const uint16_t* at[kBlock];
    int64_t n = n0 + r0 / image, h = r0 % image / g.across, column = r0 % g.across;
    for (int64_t i = 0; i < kBlock; ++i) {
      const bool inside = r0 + i < total && h < g.OH && column < g.OW;
      at[i] = inside ? dy + ((n * g.OH + h) * g.OW + column) * g.OO : kZeros;
      if (++column < g.across) continue;
      column = 0;
      if (++h == g.OH + g.below) h = 0, ++n;
    }
    for (int64_t o = 0; o < g.O; o += kBlock) {
      V first[kSide], second[kSide];
      for (int64_t i = 0; i < kSide; ++i) {
        first[i] = (V)numbers(at[i] + o, g.O - o);
        second[i] = (V)numbers(at[kSide + i] + o, g.O - o);
      }
      transpose(first), transpose(second);
      for (int64_t i = 0; i < std::min(kSide, (O - o) / 2); ++i) {
        uint16_t* to = turned + (o + 2 * i) / kSide * strip + r0 * kSide + (2 * i) % kSide * kBlock;
        _mm512_store_si512(to, _mm512_permutex2var_epi16((__m512i)first[i], even, (__m512i)second[i]));
        _mm512_store_si512(to + kBlock, _mm512_permutex2var_epi16((__m512i)first[i], odd, (__m512i)second[i]));
      }
    }
  }

  // du[row][span][o][m] = or += the products of a group, number j of them all: up to five shifts of x for 16 x 16 numbers,
  // or 32 x 32 where there is one shift.
  int64_t taps(int64_t f) const { return (g.rows - f + g.stride - 1) / g.stride * spans; }
  int64_t parts = (taps(0) + 4) / 5, block = parities > 1 ? kSide : kBlock;
  int64_t blocks_m = up(M, block) / block, blocks_o = up(O, block) / block;
  int64_t products = parts * blocks_m * blocks_o * phases;
  int64_t chunk = std::clamp<int64_t>(kChunk / (parities * plane * 2 * block / kSide), 1, blocks_m);  // stay in L2 for all o

  // Where the numbers of 16 channels lie together in dw, they are summed there.
  bool in_place = slices == 1 && g.stride == 1 && !whole && st[1] == 1 && g.C % kSide == 0 && g.O % kSide == 0;
  int64_t apart = in_place ? st[0] : M;

  void sum(int64_t j, int64_t count, const uint16_t* pairs, const uint16_t* turned, float* du, bool add) const {
    const int64_t f = j / (parts * blocks_m * blocks_o), in_phase = j % (parts * blocks_m * blocks_o);
    const int64_t m0 = in_phase / (chunk * parts * blocks_o) * chunk, part = in_phase % parts;
    const int64_t in_chunk = in_phase - m0 * parts * blocks_o, of_o = std::min(chunk, blocks_m - m0) * parts;
    const int64_t o = in_chunk / of_o * block, m = (m0 + in_chunk % of_o / parts) * block;
    const int64_t t0 = taps(f) * part / parts, t1 = taps(f) * (part + 1) / parts;
    const uint16_t* a = turned + o / kSide * strip;
    auto shifted = [&](int64_t k) {
      const int64_t shift = (t0 + k) / spans * g.across + (t0 + k) % spans;
      return pairs + ((f * parities + shift % 2) * (M / kSide) + m / kSide) * plane + shift / 2 * kBlock;
    };
    auto sums = [&](int64_t k) {
      const int64_t row = f + (t0 + k) / spans * g.stride, span = (t0 + k) % spans;
      return in_place ? dw + o * st[0] + row * st[2] + span * st[3] + m : du + ((row * spans + span) * O + o) * M + m;
    };
    if (block == kSide) {
      if (t1 > t0) for_row(t1 - t0, [&](auto n) { tile_row<n.value>(count, a, shifted, sums, apart, add); });
      return;
    }
    const Layout outputs{64, strip * 2}, inputs{64, plane * 2};
    const uint16_t* b = shifted(0);
    auto rows_of = [&](int64_t i) { return a + i * kTile; };
    auto next = [&](int64_t i) { return b + i * kTile; };
    for_block(O - o > kSide, M - m > kSide, [&](auto down, auto aside) {
      tile_sums<down.value, aside.value>(count, rows_of, outputs, next, inputs, sums(0), apart, add);
    });
  }
  void finish(const float* du, int threads) const {
    over_blocks(g.O, threads, [&](int64_t o0, int64_t o1) {
      for (int64_t o = o0; o < o1; ++o)
        for (int64_t row = 0; row < g.rows; ++row)
          for (int64_t column = 0; column < g.columns; ++column) {
            const int64_t span = whole ? 0 : column / g.stride, first = (whole ? column : column % g.stride) * g.C;
            const float* from = du + ((row * spans + span) * O + o) * M + first;
            float* to = dw + o * st[0] + row * st[2] + column * st[3];
            for (int64_t c = 0; c < g.C; c += kLane) {
              V total = _mm512_maskz_loadu_ps(lanes(g.C - c), from + c);
              for (int64_t s = 1; s < slices; ++s) total += _mm512_maskz_loadu_ps(lanes(g.C - c), from + s * sums + c);
              store_spread(to + c * st[1], st[1], lanes(g.C - c), total);
            }
          }
    });
  }
  struct Packed {  // a group's numbers
    Space<uint16_t> pairs, turned;
    explicit Packed(const WeightGradient& w)
        : pairs(w.phases * w.parities * (w.M / kSide) * w.plane), turned(w.O / kSide * w.strip) {}
  };
  void group(int64_t n0, int64_t n1, const Packed& packed, float* du, bool add, int threads) const {
    const int64_t total = (n1 - n0) * image, blocks = up(total, kBlock) / kBlock;
    over_blocks(up(blocks * kBlock + beyond, kBlock) / kBlock, threads, [&](int64_t b0, int64_t b1) {
      Space<uint16_t> copies((kBlock + 1) * up(take, kBlock));
      for (int64_t b = b0; b < b1; ++b) {
        pack_pairs(n0, b * kBlock, total, copies, packed.pairs);
        if (b < blocks) pack_gradient(n0, b * kBlock, total, packed.turned);
      }
    });
    over_blocks(products, threads, [&](int64_t j0, int64_t j1) {
      const UnitsFor units(2 * kSide);
      for (int64_t j = j0; j < j1; ++j) sum(j, blocks, packed.pairs, packed.turned, du, add);
    });
  }
  void slice(int64_t s, const Packed& packed, float* du, int threads) const {
    const int64_t begin = g.N * s / slices, count = g.N * (s + 1) / slices - begin;
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t n0 = begin + count * turn / turns, n1 = begin + count * (turn + 1) / turns;
      if (n0 < n1) group(n0, n1, packed, du, n0 > begin, threads);
    }
  }
  void run(int threads) const {
    Space<float> du(in_place ? kSide : slices * sums);
    if (slices == 1) slice(0, Packed(*this), du, threads);
    else
      over_blocks(slices, threads, [&](int64_t s0, int64_t s1) {
        const Packed packed(*this);
        for (int64_t s = s0; s < s1; ++s) slice(s, packed, du + s * sums, 1);
      });
    if (!in_place) finish(du, threads);
  }
};

}  // namespace

// `shape` is N, H, W, C, O, rows, columns, stride, padding above, padding to the left, groups, with the channels C and O of
// one group. Maps are channels_last bfloat16; weights float32 (O x groups, C, rows, columns) of the strides `st`; where they
// are flipped, (C x groups, O, rows, columns) with the first two strides exchanged. Forward, `add` is maps as y that are
// added to it, or nothing. The gradient of the weights of groups is for stride 1.
extern "C" {

int convworks_amx_available() { return tiles_permitted(); }
int convworks_amx_forward(const int64_t* shape, const uint16_t* x, const float* w, const int64_t* st, int flip,
                          const float* bias, const uint16_t* add, uint16_t* y, int threads) {
  const Window g(shape);
  const int64_t next = flip ? g.C * st[1] : g.O * st[0];
  GUARDED(([&] {
    for (int64_t i = 0; i < g.groups; ++i)
      forward(g, x + i * g.C, w + i * next, st, flip, bias ? bias + i * g.O : nullptr, add ? add + i * g.O : nullptr,
              y + i * g.O, threads);
    return 0;
  }()))
}
int convworks_amx_weight(const int64_t* shape, const uint16_t* x, const uint16_t* dy, float* dw, const int64_t* st,
                         int threads) {
  const Window g(shape);
  GUARDED(([&] {
    for (int64_t i = 0; i < g.groups; ++i)
      WeightGradient{g, x + i * g.C, dy + i * g.O, dw + i * g.O * st[0], st}.run(threads);
    return 0;
  }()))
}

}  // extern "C"
#else
extern "C" {  // this processor lacks the instructions: nothing but the first is called

int convworks_amx_available() { return 0; }
int convworks_amx_forward(const int64_t*, const uint16_t*, const float*, const int64_t*, int, const float*, const uint16_t*,
                          uint16_t*, int) {
  return 1;
}
int convworks_amx_weight(const int64_t*, const uint16_t*, const uint16_t*, float*, const int64_t*, int) { return 1; }

}  // extern "C"
#endif
