// Threads: torch's own OpenMP library does the work, through the one function that begins a parallel region.

#pragma once
#include <atomic>
#include <cstdint>
#include <new>
#include <type_traits>

typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
extern Parallel parallel_region;  // set by convworks_threads, in kernels.cpp

namespace {

struct Job {
  void (*run)(void*, int64_t, int64_t);
  void* data;
  int64_t blocks, parts;
  std::atomic<int64_t> next;
  std::atomic<bool> failed;
};

void worker(void* raw) {  // nothing may be thrown out of a parallel region
  Job* job = static_cast<Job*>(raw);
  try {
    for (int64_t part; (part = job->next++) < job->parts;)
      job->run(job->data, job->blocks * part / job->parts, job->blocks * (part + 1) / job->parts);
  } catch (...) { job->failed = true; }
}

// body(first, last) for ranges of blocks. Each thread takes a range when it has done its last: a processor that is slow,
// or has other work, does not keep the others waiting. `ranges`: how many for each thread.
template <class F>
void over_blocks(int64_t blocks, int threads, F&& body, int64_t ranges = 8) {
  Job job{[](void* d, int64_t a, int64_t b) { (*static_cast<std::remove_reference_t<F>*>(d))(a, b); },
          &body, blocks, blocks < threads * ranges ? blocks : threads * ranges, {0}, {false}};
  if (threads <= 1 || blocks <= 1 || !parallel_region) { body(int64_t(0), blocks); return; }
  parallel_region(worker, &job, unsigned(threads), 0);  // always torch's number: another would rebuild its team
  if (job.failed) throw std::bad_alloc();
}

}  // namespace

#define GUARDED(call) try { return call; } catch (...) { return 1; }  // 1: no memory
