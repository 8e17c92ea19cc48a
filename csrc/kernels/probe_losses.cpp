#include "kernels/probe_losses.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numbers>

#include "isa/table.h"
#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// Rows of a task, and of a partial sum of losses.
constexpr std::int64_t kRows = 16;

// Calls row(i, losses) for every row; adds up what each probe lost, in the order of the rows.
template <class Row>
bool sum_losses(const ProbeLogits& x, double* losses, int threads, const Row& row) {
  const std::int64_t tasks = divide_up(x.rows, kRows);
  Workspace workspace;
  const std::size_t place = workspace.add<isa::Loss>(tasks * x.probes);
  workspace.allocate();
  workspace.attach();
  isa::Loss* partial = workspace.at<isa::Loss>(place);
  std::atomic<bool> is_finite{true};
  parallel_for(tasks, threads, [&](std::int64_t task, int) {
    isa::Loss* own = partial + task * x.probes;
    std::fill_n(own, x.probes, isa::Loss{});
    bool all = true;
    for (std::int64_t i = task * kRows; i < std::min(x.rows, (task + 1) * kRows); ++i) {
      all &= row(i, own);
    }
    for (std::int64_t k = 0; k < x.probes; ++k) {
      const isa::Product& factors = own[k].factors;
      own[k].total +=
          std::log(factors.mantissa) + static_cast<double>(factors.exponent) * std::numbers::ln2;
    }
    if (!all) is_finite.store(false, std::memory_order_relaxed);
  });
  for (std::int64_t task = 0; task < tasks; ++task) {
    for (std::int64_t k = 0; k < x.probes; ++k) losses[k] += partial[task * x.probes + k].total;
  }
  return is_finite.load();
}

}  // namespace

bool softmax_gradient(const ProbeLogits& x, const std::int64_t* targets, double* losses,
                      int threads) {
  const auto softmax_row = isa::active().softmax_row;
  const std::int64_t columns = x.offsets[x.probes];
  return sum_losses(x, losses, threads, [&](std::int64_t i, isa::Loss* own) {
    return softmax_row(x.logits + i * columns, x.offsets, targets + i * x.probes, x.probes, own);
  });
}

bool sigmoid_gradient(const ProbeLogits& x, const std::uint8_t* targets, double* losses,
                      int threads) {
  const auto sigmoid_row = isa::active().sigmoid_row;
  const std::int64_t columns = x.offsets[x.probes];
  return sum_losses(x, losses, threads, [&](std::int64_t i, isa::Loss* own) {
    return sigmoid_row(x.logits + i * columns, x.offsets, targets + i * columns, x.probes, own);
  });
}

}  // namespace bertft
