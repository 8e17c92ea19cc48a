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

// Calls visit(rows, first, losses) for some rows at a time; adds up what each probe lost, in the
// order of the rows.
template <class Visit>
bool sum_losses(const isa::LogitRows& x, double* losses, int threads, const Visit& visit) {
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
    const std::int64_t first = task * kRows;
    const isa::LogitRows some = {x.logits + first * x.columns, std::min(kRows, x.rows - first),
                                 x.columns, x.offsets, x.probes};
    if (!visit(some, first, own)) is_finite.store(false, std::memory_order_relaxed);
    for (std::int64_t k = 0; k < x.probes; ++k) {
      const isa::Product& factors = own[k].factors;
      own[k].total +=
          std::log(factors.mantissa) + static_cast<double>(factors.exponent) * std::numbers::ln2;
    }
  });
  for (std::int64_t task = 0; task < tasks; ++task) {
    for (std::int64_t k = 0; k < x.probes; ++k) losses[k] += partial[task * x.probes + k].total;
  }
  return is_finite.load();
}

}  // namespace

bool softmax_gradient(const isa::LogitRows& x, const std::int64_t* targets, double* losses,
                      int threads) {
  const auto softmax_rows = isa::active().softmax_rows;
  return sum_losses(x, losses, threads, [&](const auto& rows, std::int64_t first, auto* own) {
    return softmax_rows(rows, targets + first * x.probes, own);
  });
}

bool sigmoid_gradient(const isa::LogitRows& x, const std::uint8_t* targets, double* losses,
                      int threads) {
  const auto sigmoid_rows = isa::active().sigmoid_rows;
  return sum_losses(x, losses, threads, [&](const auto& rows, std::int64_t first, auto* own) {
    return sigmoid_rows(rows, targets + first * x.columns, own);
  });
}

}  // namespace bertft
