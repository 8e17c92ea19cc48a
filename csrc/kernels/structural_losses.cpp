#include "kernels/structural_losses.h"

#include <algorithm>
#include <cmath>

#include "isa/table.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

isa::Projected part(const ProjectedSentences& x, std::int64_t s, std::int64_t k) {
  return {x.rows + x.offsets[s] * x.row + k * x.rank, x.row, x.offsets[s + 1] - x.offsets[s],
          x.rank};
}

// Adds up what each probe lost, in the order of the sentences.
bool add_losses(const ProjectedSentences& x, const double* partial, double* losses) {
  bool is_finite = true;
  for (std::int64_t s = 0; s < x.sentences; ++s) {
    for (std::int64_t k = 0; k < x.probes; ++k) {
      const double lost = partial[s * x.probes + k];
      is_finite &= std::isfinite(lost);
      losses[k] += lost;
    }
  }
  return is_finite;
}

}  // namespace

bool distance_gradient(const ProjectedSentences& x, const float* gold, double* losses,
                       int threads) {
  std::int64_t longest = 1;
  for (std::int64_t s = 0; s < x.sentences; ++s) {
    longest = std::max(longest, x.offsets[s + 1] - x.offsets[s]);
  }
  const isa::Table& table = isa::active();
  // The scratch of a thread is whole cache lines, so that no other thread writes to them.
  const std::int64_t scratch = (table.distance_scratch(longest, x.rank) + 15) / 16 * 16;
  Workspace workspace;
  const std::size_t of_losses = workspace.add<double>(x.sentences * x.probes);
  const std::size_t of_tables = workspace.add<std::int64_t>(x.sentences);
  const std::size_t of_scratch = workspace.add<float>(threads * scratch);
  workspace.allocate();
  workspace.attach();
  double* partial = workspace.at<double>(of_losses);
  std::int64_t* tables = workspace.at<std::int64_t>(of_tables);
  for (std::int64_t s = 0, place = 0; s < x.sentences; ++s) {
    const std::int64_t words = x.offsets[s + 1] - x.offsets[s];
    tables[s] = place;
    place += words * words;
  }
  parallel_for(x.sentences * x.probes, threads, [&](std::int64_t task, int worker) {
    const std::int64_t s = task / x.probes;
    partial[task] = table.distance_rows(part(x, s, task % x.probes), gold + tables[s],
                                        workspace.at<float>(of_scratch) + worker * scratch);
  });
  return add_losses(x, partial, losses);
}

bool depth_gradient(const ProjectedSentences& x, const float* gold, double* losses, int threads) {
  const auto depth_rows = isa::active().depth_rows;
  Workspace workspace;
  const std::size_t of_losses = workspace.add<double>(x.sentences * x.probes);
  workspace.allocate();
  workspace.attach();
  double* partial = workspace.at<double>(of_losses);
  parallel_for(x.sentences, threads, [&](std::int64_t s, int) {
    for (std::int64_t k = 0; k < x.probes; ++k) {
      partial[s * x.probes + k] = depth_rows(part(x, s, k), gold + x.offsets[s]);
    }
  });
  return add_losses(x, partial, losses);
}

}  // namespace bertft
