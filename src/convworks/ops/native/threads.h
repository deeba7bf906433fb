// Threads: torch's own OpenMP library does the work, through the one function that begins a parallel region.

#pragma once
#include <atomic>
#include <cstdint>
#include <new>
#include <type_traits>

typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
extern Parallel parallel_region;    // both are set by convworks_threads, in kernels.cpp
extern int (*number_of_thread)();   // within a parallel region

namespace {

constexpr int kMostShares = 64;

struct Job {
  void (*run)(void*, int64_t, int64_t);
  void* data;
  int64_t blocks, parts, shares;
  bool down;
  std::atomic<bool> failed;
  struct alignas(64) { std::atomic<int64_t> taken; } of[kMostShares];
};

void worker(void* raw) {  // nothing may be thrown out of a parallel region
  Job* job = static_cast<Job*>(raw);
  const int64_t own = number_of_thread ? number_of_thread() : 0;
  try {
    for (int64_t i = 0; i < job->shares; ++i) {
      const int64_t share = (own + i) % job->shares;
      const int64_t first = job->parts * share / job->shares, end = job->parts * (share + 1) / job->shares;
      for (int64_t k; (k = job->of[share].taken++) < end - first;) {
        const int64_t part = job->down ? end - 1 - k : first + k;
        job->run(job->data, job->blocks * part / job->parts, job->blocks * (part + 1) / job->parts);
      }
    }
  } catch (...) { job->failed = true; }
}

// body(first, last) for ranges of blocks. Each thread has a share of the ranges, the same in every kernel, so that it finds
// in its caches what it has read or written before; when it has done its own it takes of the others': a processor that is
// slow, or has other work, does not keep the other waiting. `down`: the last ranges first, which a kernel that has just gone
// up finds in the caches. `ranges`: how many for each thread.
template <class F>
void over_blocks(int64_t blocks, int threads, F&& body, int64_t ranges = 8, bool down = false) {
  if (threads <= 1 || blocks <= 1 || !parallel_region) { body(int64_t(0), blocks); return; }
  Job job{[](void* d, int64_t a, int64_t b) { (*static_cast<std::remove_reference_t<F>*>(d))(a, b); },
          &body, blocks, blocks < threads * ranges ? blocks : threads * ranges,
          threads < kMostShares ? threads : kMostShares, down, {false}, {}};
  parallel_region(worker, &job, unsigned(threads), 0);  // always torch's number: another would rebuild its team
  if (job.failed) throw std::bad_alloc();
}

}  // namespace

#define GUARDED(call) try { return call; } catch (...) { return 1; }  // 1: no memory
