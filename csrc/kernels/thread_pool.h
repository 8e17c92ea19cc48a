// Runs independent tasks on a few threads of our own (no OpenMP runtime beside torch's).
//
// Each thread has a share of the tasks, in their order, and helps the others when it is through:
// loops over the same data one after another find most of it in the thread's own cache. Which
// thread runs a task is not fixed: callers give every task its own outputs, and the result is then
// the same for any number of threads.
// A second caller that arrives while the pool is busy runs its tasks on its own thread.
// Safe after fork(): the child starts with a fresh pool. Tasks must not throw.
#pragma once

#include <cstdint>
#include <functional>

namespace bertft {

// Calls task(index, worker) for every index below `tasks`; no two calls with the same worker, a
// number below `threads` and below `tasks`, run at once.
void parallel_for(std::int64_t tasks, int threads,
                  const std::function<void(std::int64_t, int)>& task);

}  // namespace bertft
