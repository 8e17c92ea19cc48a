#include "kernels/hidden_units.h"

#include <algorithm>

#include "kernels/panels.h"
#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// Rows of a task, and of a partial sum.
constexpr std::int64_t kRows = 32;
// Below this many units a second thread costs more than it saves: it fetches what the first wrote.
constexpr std::int64_t kWorthThreads = std::int64_t{1} << 21;

isa::HiddenLayer layer_of(const HiddenUnits& x, std::int64_t k) {
  const std::int64_t place = k * x.width;
  return {x.bias + place, x.gain + place, x.shift + place, x.epsilon, x.width};
}

isa::Dropout dropout_of(const HiddenUnits& x, std::int64_t place) {
  return {x.kept == nullptr ? nullptr : x.kept + place, x.scale};
}

// Calls visit(probe, block, place) for each row, with the place of its first unit.
template <class Visit>
void for_each_row(const HiddenUnits& x, int threads, const Visit& visit) {
  if (x.rows * x.probes * x.width < kWorthThreads) threads = 1;
  parallel_for(x.probes * divide_up(x.rows, kRows), threads, [&](std::int64_t task, int) {
    const std::int64_t k = task % x.probes, block = task / x.probes;
    for (std::int64_t i = block * kRows; i < std::min(x.rows, (block + 1) * kRows); ++i) {
      visit(k, block, (i * x.probes + k) * x.width);
    }
  });
}

}  // namespace

void tanh_norm(const HiddenUnits& units, float* x, float* out, int threads) {
  const auto row = isa::active().tanh_norm_row;
  for_each_row(units, threads, [&](std::int64_t k, std::int64_t, std::int64_t place) {
    row(layer_of(units, k), dropout_of(units, place), x + place, out + place);
  });
}

void tanh_norm_gradient(const HiddenUnits& units, const float* hidden, float* gradient,
                        const isa::HiddenSums& sums, int threads) {
  const std::int64_t blocks = divide_up(units.rows, kRows), all = units.probes * units.width;
  Workspace workspace;
  const std::size_t of_partial = workspace.add<float>(blocks * 3 * all);
  workspace.allocate();
  workspace.attach();
  float* partial = workspace.at<float>(of_partial);
  std::fill_n(partial, blocks * 3 * all, 0.0f);
  const auto row = isa::active().tanh_norm_row_gradient;
  for_each_row(units, threads, [&](std::int64_t k, std::int64_t block, std::int64_t place) {
    float* own = partial + block * 3 * all + k * units.width;
    row(layer_of(units, k), dropout_of(units, place), hidden + place, gradient + place,
        {own, own + all, own + 2 * all});
  });
  float* const outputs[] = {sums.bias, sums.gain, sums.shift};
  for (std::int64_t part = 0; part < 3; ++part) {
    std::fill_n(outputs[part], all, 0.0f);
    for (std::int64_t block = 0; block < blocks; ++block) {
      const float* own = partial + (block * 3 + part) * all;
      for (std::int64_t j = 0; j < all; ++j) outputs[part][j] += own[j];
    }
  }
}

}  // namespace bertft
