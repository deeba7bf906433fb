// Max pooling forward and backward. Vectors run along the channels of a pixel, or along whole rows where pixels are small.
//
// Few channels fill no vector. Then the rows of a map are separated into strips, one for every column of a stride: what a
// tap of the windows meets follows each other there across the pixels, and vectors run along the strips. Windows that reach
// into the padding at the left and right are left to the other way. The bits are the same.

#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>
#include "threads.h"
#include "vectors.h"

namespace {

constexpr int64_t kAlone = 1 << 14;    // fewer values than this are not worth a second thread
constexpr int64_t kFewChannels = 64;   // of a pixel, below which forward makes strips where they are no whole vectors

struct Window { int64_t N, H, W, C, OH, OW, kh, kw, sh, sw, ph, pw; };
constexpr uint8_t kNone = 255;  // nothing of the window is above 0

inline bool in_strips(const Window& w, int64_t most) { return w.C < most && w.C % kLanes != 0; }

// Pixels of `bytes` each, `from` one stride after the other; up to 63 bytes beyond a pixel are written, and read up to
// `end` only.
template <int CHUNK>
void gather_by(const char* from, int64_t stride, int64_t count, int64_t bytes, char* to, const char* end) {
  for (; count > 0 && from + (bytes + CHUNK - 1) / CHUNK * CHUNK <= end; --count, from += stride, to += bytes)
    for (int64_t i = 0; i < bytes; i += CHUNK) std::memcpy(to + i, from + i, CHUNK);
  for (; count > 0; --count, from += stride, to += bytes) std::memcpy(to, from, size_t(bytes));
}
template <class E> void gather(const E* from, int64_t stride, int64_t count, int64_t C, E* to, const E* end) {
  const int64_t bytes = C * int64_t(sizeof(E));
  const auto gather_some = bytes <= 16 ? gather_by<16> : bytes <= 32 ? gather_by<32> : gather_by<64>;
  gather_some((const char*)from, stride * int64_t(sizeof(E)), count, bytes, (char*)to, (const char*)end);
}
// The other way: `strips` strips, `pitch` numbers apart, to a row that begins with pixel `first` of them in turn.
template <int CHUNK, class E>
void merge_by(const E* from, int64_t pitch, int64_t strips, int64_t first, int64_t count, int64_t C, E* to) {
  const int64_t bytes = C * int64_t(sizeof(E));
  int64_t p = first % strips;
  for (const E* pixel = from + first / strips * C; count > 0; --count, to += C) {
    for (int64_t i = 0; i < bytes; i += CHUNK) std::memcpy((char*)to + i, (const char*)(pixel + p * pitch) + i, CHUNK);
    if (++p == strips) p = 0, pixel += C;
  }
}
template <class E> void merge(const E* from, int64_t pitch, int64_t strips, int64_t first, int64_t count, int64_t C, E* to) {
  const int64_t bytes = C * int64_t(sizeof(E));
  const auto merge_some = bytes <= 16 ? merge_by<16, E> : bytes <= 32 ? merge_by<32, E> : merge_by<64, E>;
  merge_some(from, pitch, strips, first, count, C, to);
}

// All vectors of `count` numbers; the last one overlaps where they are not whole.
template <class F> inline void each_vector(int64_t count, F&& run) {
  if (count < kLanes) { if (count > 0) run(int64_t(0), count); return; }
  for (int64_t q = 0; q + kLanes <= count; q += kLanes) run(q);
  if (count % kLanes) run(count - kLanes);
}
inline std::vector<float> repeated(const float* v, int64_t C, int64_t count) {
  std::vector<float> r(size_t(count * C + kLanes));
  for (int64_t i = 0; v && i < count * C; ++i) r[i] = v[i % C];
  return r;
}

// FLOOR: a ReLU before or behind. NORM: a batch norm before the ReLU; `chosen` keeps x where z was the largest.
template <class T, bool FLOOR, bool NORM> struct MaxPool {
  const Window& w;
  const T* x;
  const float *scale, *shift;  // with room for whole vectors
  T* y;
  uint8_t* place;
  T* chosen;

  struct Best {
    vf best = vf{} - std::numeric_limits<float>::infinity(), kept{};
    vi where;
    explicit Best(int64_t tap) : where(vi{} + int32_t(tap)) {}
    [[gnu::always_inline]] void meet(vf v, vf z, int64_t tap) {
      const vi better = (vi)(z > best) | (vi)(z != z);
      best = select(better, z, best);
      if (NORM) kept = select(better, v, kept);
      where = (better & int32_t(tap)) | (~better & where);
    }
  };
  template <class... Lanes> [[gnu::always_inline]] void put(Best b, int64_t out, Lanes... lanes) const {
    if (FLOOR) {
      const vi on = active(b.best);
      b.best = keep_where(on, b.best);
      b.where = (on & b.where) | (~on & int32_t(kNone));
    }
    store(y + out, b.best, lanes...);
    if (NORM) store(chosen + out, b.kept, lanes...);
    store(place + out, b.where, lanes...);
  }
  struct Row { int64_t number, n, top, i0, i1; };  // of outputs, and the window's rows within the map
  void pixel(const Row& r, int64_t ow) const {
    const int64_t C = w.C, left = ow * w.sw - w.pw;
    const int64_t j0 = left < 0 ? -left : 0, j1 = left + w.kw > w.W ? w.W - left : w.kw;
    const int64_t out = (r.number * w.OW + ow) * C, at = ((r.n * w.H + r.top) * w.W + left) * C;
    auto columns = [&](int64_t c, auto... lanes) {  // no `lanes`: all of them
      Best b(r.i0 * w.kw + j0);
      for (int64_t i = r.i0; i < r.i1; ++i)
        for (int64_t j = j0; j < j1; ++j) {
          const vf v = load(x + at + (i * w.W + j) * C + c, lanes...);
          b.meet(v, NORM ? v * load(scale + c) + load(shift + c) : v, i * w.kw + j);
        }
      put(b, out + c, lanes...);
    };
    int64_t c = 0;
    for (; c + kLanes <= C; c += kLanes) columns(c);
    if (c < C) columns(c, C - c);
  }
  // Outputs first to last - 1 of a row, whose windows lie between the map's left and right ends. scales and shifts are
  // repeated for a row; `strips` has room for all rows and strips of the windows.
  void strips(const Row& r, int64_t first, int64_t last, const float* scales, const float* shifts, T* strips,
              int64_t pitch) const {
    const int64_t C = w.C, used = std::min(w.sw, w.kw), base = first * w.sw - w.pw, count = (r.i1 - r.i0) * w.kw;
    const T* taps[256];
    for (int64_t i = r.i0; i < r.i1; ++i) {
      const T* from = x + ((r.n * w.H + r.top + i) * w.W + base) * C;
      for (int64_t p = 0; p < used; ++p) {
        T* to = strips + ((i - r.i0) * used + p) * pitch;
        const int64_t pixels = last - first + (w.kw - 1 - p) / w.sw;
        if (w.sw > 1) gather(from + p * C, w.sw * C, pixels, C, to, x + w.N * w.H * w.W * C);
        for (int64_t j = p; j < w.kw; j += w.sw)
          taps[(i - r.i0) * w.kw + j] = (w.sw > 1 ? static_cast<const T*>(to) : from) + j / w.sw * C;
      }
    }
    const int64_t out = (r.number * w.OW + first) * C, begin = r.i0 * w.kw;
    each_vector((last - first) * C, [&](int64_t q, auto... lanes) {
      Best b(begin);
      for (int64_t t = 0; t < count; ++t) {
        const vf v = load(taps[t] + q, lanes...);
        b.meet(v, NORM ? v * load(scales + q) + load(shifts + q) : v, begin + t);
      }
      put(b, out + q, lanes...);
    });
  }
  void run(int threads) const {
    int64_t first = w.OW, last = w.OW;  // of the outputs that strips make
    if (in_strips(w, kFewChannels) && w.W + w.pw >= w.kw) {
      first = std::min((w.pw + w.sw - 1) / w.sw, w.OW);
      last = std::clamp((w.W + w.pw - w.kw) / w.sw + 1, first, w.OW);
    }
    const bool any = first < last;
    const int64_t pitch = w.OW * w.C + w.kw * w.C + 64, rows = any ? w.kh * std::min(w.sw, w.kw) : 0;
    const int64_t often = any && NORM ? w.OW : 0;
    const std::vector<float> scales = repeated(scale, w.C, often), shifts = repeated(shift, w.C, often);
    over_blocks(w.N * w.OH, w.N * w.OH * w.OW * w.C < kAlone ? 1 : threads, [&](int64_t b0, int64_t b1) {
      std::vector<T> room(size_t(rows * pitch));
      for (int64_t number = b0; number < b1; ++number) {
        const int64_t top = number % w.OH * w.sh - w.ph;
        const Row r{number, number / w.OH, top, top < 0 ? -top : 0, top + w.kh > w.H ? w.H - top : w.kh};
        for (int64_t ow = 0; ow < first; ++ow) pixel(r, ow);
        if (any) strips(r, first, last, scales.data(), shifts.data(), room.data(), pitch);
        for (int64_t ow = last; ow < w.OW; ++ow) pixel(r, ow);
      }
    });
  }
};

// --- backward --------------------------------------------------------------------------------------------------------

struct Padded { std::vector<float> a, b, c, mean; };  // of a batch norm's dx, with room for whole vectors

// Every place of x collects from the windows over it. With NORM also a g + b (x - mean) + c of the batch norm.
template <class T, bool NORM> struct MaxPoolGradient {
  const Window& w;
  const T* dy;
  const uint8_t* place;
  const T* x;
  const Padded* k;
  T* dx;

  struct Row { int64_t number, n, ih, h0, h1; };  // of x, with the padding above, and the windows over it
  void pixel(const Row& r, int64_t col) const {
    const int64_t C = w.C, iw = col + w.pw, in = (r.number * w.W + col) * C;
    const int64_t w0 = iw < w.kw ? 0 : (iw - w.kw) / w.sw + 1, w1 = iw / w.sw + 1 < w.OW ? iw / w.sw + 1 : w.OW;
    auto columns = [&](int64_t c, auto... lanes) {
      vf g{};
      for (int64_t oh = r.h0; oh < r.h1; ++oh)
        for (int64_t ow = w0; ow < w1; ++ow) {
          const int64_t out = ((r.n * w.OH + oh) * w.OW + ow) * C + c;
          const int32_t mine = int32_t((r.ih - oh * w.sh) * w.kw + iw - ow * w.sw);
          g += keep_where((vi)(load(place + out, lanes...) == mine), load(dy + out, lanes...));
        }
      if (NORM) {
        const vf centred = load(x + in + c, lanes...) - load(&k->mean[c]);
        g = load(&k->a[c]) * g + load(&k->b[c]) * centred + load(&k->c[c]);
      }
      store(dx + in + c, g, lanes...);
    };
    int64_t c = 0;
    for (; c + kLanes <= C; c += kLanes) columns(c);
    if (c < C) columns(c, C - c);
  }

  using Sum = std::conditional_t<NORM, float, T>;  // of strips
  struct Room {  // rows of dy and place with `margin` pixels of zeros and of no place around, strips, and a row of them
    std::vector<T> dy;
    std::vector<uint8_t> place;
    std::vector<Sum> strips, row;
  };
  int64_t margin = (w.kw - 1) / w.sw, pixels = (w.W + w.pw + w.sw - 1) / w.sw;  // pixels of a strip, with the padding
  int64_t wide = (std::max(w.OW, pixels) + margin) * w.C + margin * w.C + 64, pitch = pixels * w.C + 64;
  Room room() const {
    return {std::vector<T>(size_t(w.kh * wide)), std::vector<uint8_t>(size_t(w.kh * wide), kNone),
            std::vector<Sum>(size_t(w.sw * pitch)), std::vector<Sum>(size_t(w.W * w.C + 64))};
  }
  // Strip p: pixels p, p + the stride, ... of the padded row. Terms are added in the order of `pixel`.
  void strip(const Row& r, int64_t p, const Room& from, Sum* to) const {
    each_vector(pixels * w.C, [&](int64_t q, auto... lanes) {
      vf g{};
      for (int64_t oh = r.h0; oh < r.h1; ++oh)
        for (int64_t t = p < w.kw ? (w.kw - 1 - p) / w.sw : -1; t >= 0; --t) {
          const int64_t at = (oh - r.h0) * wide + (margin - t) * w.C + q;
          const int32_t mine = int32_t((r.ih - oh * w.sh) * w.kw + p + t * w.sw);
          g += keep_where((vi)(load(&from.place[at], lanes...) == mine), load(&from.dy[at], lanes...));
        }
      store(to + q, g, lanes...);
    });
  }
  void strips(const Row& r, const Padded& rows, Room& room) const {
    const int64_t row = w.W * w.C, in = r.number * row;
    for (int64_t oh = r.h0; oh < r.h1; ++oh) {
      const int64_t at = (oh - r.h0) * wide + margin * w.C, out = (r.n * w.OH + oh) * w.OW * w.C;
      std::copy_n(dy + out, w.OW * w.C, &room.dy[at]);
      std::copy_n(place + out, w.OW * w.C, &room.place[at]);
    }
    for (int64_t p = 0; p < w.sw; ++p) strip(r, p, room, &room.strips[p * pitch]);
    merge(room.strips.data(), pitch, w.sw, w.pw, w.W, w.C, room.row.data());
    if constexpr (!NORM) std::copy_n(room.row.data(), row, dx + in);
    else
      each_vector(row, [&](int64_t q, auto... lanes) {
        const vf centred = load(x + in + q, lanes...) - load(&rows.mean[q]);
        store(dx + in + q, load(&rows.a[q]) * load(&room.row[q]) + load(&rows.b[q]) * centred + load(&rows.c[q]), lanes...);
      });
  }
  void run(int threads) const {
    const int64_t C = w.C, row = w.W * C;
    const bool few = in_strips(w, kLanes);  // the strips' row is one more pass
    Padded rows;
    if (NORM && few)
      rows = {repeated(k->a.data(), C, w.W), repeated(k->b.data(), C, w.W), repeated(k->c.data(), C, w.W),
              repeated(k->mean.data(), C, w.W)};
    over_blocks(w.N * w.H, w.N * w.H * row < kAlone ? 1 : threads, [&](int64_t b0, int64_t b1) {
      Room own = few ? room() : Room();
      for (int64_t number = b0; number < b1; ++number) {
        const int64_t ih = number % w.H + w.ph;
        const Row r{number, number / w.H, ih, ih < w.kh ? 0 : (ih - w.kh) / w.sh + 1, std::min(ih / w.sh + 1, w.OH)};
        if (few) strips(r, rows, own);
        else for (int64_t col = 0; col < w.W; ++col) pixel(r, col);
      }
    });
  }
};

}  // namespace
