#include "kernels/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace bertft {
namespace {

using Task = std::function<void(std::int64_t, int)>;

// How long a thread looks at a condition before it sleeps: waking it costs more than a small region
// runs, and between two regions of a training step lies as much of Python.
constexpr std::chrono::microseconds kPatience{200};

template <class Condition>
bool soon(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int look = 0; look < 100; ++look) {
      if (condition()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

class Pool {
 public:
  bool try_run(std::int64_t tasks, int threads, const Task& task) {
    std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
    if (!busy.owns_lock()) return false;
    const int helpers = grow(std::min<std::int64_t>(threads, tasks) - 1);
    if (helpers == 0) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      share(tasks, helpers + 1);
      wanted_ = helpers;
      active_.store(helpers, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    drain(0);
    const auto done = [this] { return active_.load(std::memory_order_acquire) == 0; };
    if (soon(done)) return true;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, done);
    return true;
  }

 private:
  // Tasks from `next` to `end`, in a cache line of their own.
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

  // Starts threads until `count` exist; a machine that gives fewer is used with fewer.
  int grow(std::int64_t count) {
    try {
      while (size_ < count) {
        std::thread(&Pool::serve, this, size_, generation_.load()).detach();
        ++size_;
      }
    } catch (const std::system_error&) {
      return size_;
    }
    return static_cast<int>(std::max<std::int64_t>(count, 0));
  }

  void serve(int index, std::uint64_t seen) {
    const auto called = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    for (;;) {
      soon(called);
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, called);
        seen = generation_.load(std::memory_order_relaxed);
        if (index >= wanted_) continue;
      }
      drain(index + 1);
      if (active_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  void share(std::int64_t tasks, int workers) {
    if (static_cast<int>(shares_.size()) != workers) shares_ = std::vector<Share>(workers);
    for (int worker = 0; worker < workers; ++worker) {
      shares_[worker].next.store(tasks * worker / workers, std::memory_order_relaxed);
      shares_[worker].end = tasks * (worker + 1) / workers;
    }
  }

  // A worker's own share first, and then what is left of the others'.
  void drain(int worker) {
    const int workers = static_cast<int>(shares_.size());
    for (int other = 0; other < workers; ++other) {
      Share& share = shares_[(worker + other) % workers];
      for (;;) {
        // A share that is through is only looked at.
        if (share.next.load(std::memory_order_relaxed) >= share.end) break;
        const std::int64_t index = share.next.fetch_add(1, std::memory_order_relaxed);
        if (index >= share.end) break;
        (*task_)(index, worker);
      }
    }
  }

  std::mutex busy_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const Task* task_ = nullptr;
  std::vector<Share> shares_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> active_{0};
  int wanted_ = 0;
  int size_ = 0;
};

// Never destroyed: its threads wait on it until the process ends.
Pool* pool = nullptr;

Pool& the_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool = new Pool;
    // Threads and lock states do not survive fork(); the child abandons the parent's pool.
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
  });
  return *pool;
}

}  // namespace

void parallel_for(std::int64_t tasks, int threads, const Task& task) {
  if (threads > 1 && tasks > 1 && the_pool().try_run(tasks, threads, task)) return;
  for (std::int64_t index = 0; index < tasks; ++index) task(index, 0);
}

}  // namespace bertft
