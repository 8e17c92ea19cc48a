#include "kernels/spectra.h"

#include <algorithm>
#include <atomic>

#include "kernels/thread_pool.h"
#include "kernels/workspace.h"

namespace bertft {
namespace {

// LAPACK's scratch for the largest problem of a batch.
struct Scratch {
  std::int64_t matrix = 0, work = 0, integers = 0;
};

// Runs solve_one(problem, matrix, work, integers) on all problems; true for a success. The largest
// come first, so that the threads end together.
template <class Problem, class SolveOne>
std::int64_t solve_all(const std::vector<Problem>& problems, Scratch size, int threads,
                       const SolveOne& solve_one) {
  const auto count = static_cast<std::int64_t>(problems.size());
  threads = static_cast<int>(std::min<std::int64_t>(threads, std::max<std::int64_t>(count, 1)));
  Workspace workspace;
  const std::size_t matrices = workspace.add<double>(threads * size.matrix);
  const std::size_t works = workspace.add<double>(threads * size.work);
  const std::size_t integers = workspace.add<int>(threads * size.integers);
  std::vector<std::int64_t> order(problems.size());
  for (std::int64_t i = 0; i < count; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return problems[a].columns > problems[b].columns;
  });
  workspace.allocate();
  workspace.attach();

  std::atomic<std::int64_t> next{0}, failed{count};
  parallel_for(threads, threads, [&](std::int64_t, int worker) {
    for (std::int64_t task; (task = next.fetch_add(1)) < count;) {
      const std::int64_t i = order[task];
      const bool solved =
          solve_one(problems[i], workspace.at<double>(matrices) + worker * size.matrix,
                    workspace.at<double>(works) + worker * size.work,
                    workspace.at<int>(integers) + worker * size.integers);
      std::int64_t first = failed.load();
      while (!solved && i < first && !failed.compare_exchange_weak(first, i)) {
      }
    }
  });
  return failed.load() == count ? -1 : failed.load();
}

}  // namespace

std::int64_t solve(const std::vector<SymmetricProblem>& problems, Dsyevd routine, int threads) {
  const auto call = [routine](const SymmetricProblem& p, double* matrix, double* work, int lwork,
                              int* integers, int liwork) {
    const int n = static_cast<int>(p.columns);
    int info = 0;
    // LAPACK's columns are our rows: the triangle that it calls lower is our upper one.
    routine(p.vectors != nullptr ? "V" : "N", "L", &n, matrix, &n, p.values, work, &lwork, integers,
            &liwork, &info);
    return info == 0;
  };
  Scratch size;
  for (const SymmetricProblem& p : problems) {
    if (p.columns == 0) continue;
    double work = 0.0;
    int integers = 0;
    call(p, nullptr, &work, -1, &integers, -1);
    size.matrix = std::max(size.matrix, p.columns * p.columns);
    size.work = std::max(size.work, static_cast<std::int64_t>(work));
    size.integers = std::max<std::int64_t>(size.integers, integers);
  }
  const auto solve_one = [&](const SymmetricProblem& p, double* matrix, double* work,
                             int* integers) {
    if (p.columns == 0) return true;
    // The vectors take the place of the matrix.
    double* place = p.vectors != nullptr ? p.vectors : matrix;
    std::copy_n(p.matrix, p.columns * p.columns, place);
    return call(p, place, work, static_cast<int>(size.work), integers,
                static_cast<int>(size.integers));
  };
  return solve_all(problems, size, threads, solve_one);
}

std::int64_t solve(const std::vector<SingularProblem>& problems, Dgesdd routine, int threads) {
  const auto call = [routine](const SingularProblem& p, double* matrix, double* work, int lwork,
                              int* integers) {
    // LAPACK sees the transpose: its left vectors are our right ones.
    const int m = static_cast<int>(p.columns), n = static_cast<int>(p.rows), k = std::min(m, n);
    int info = 0;
    routine(p.left != nullptr ? "S" : "N", &m, &n, matrix, &m, p.values, p.right, &m, p.left, &k,
            work, &lwork, integers, &info);
    return info == 0;
  };
  Scratch size;
  for (const SingularProblem& p : problems) {
    if (p.rows * p.columns == 0) continue;
    double work = 0.0;
    int integers = 0;
    call(p, nullptr, &work, -1, &integers);
    size.matrix = std::max(size.matrix, p.rows * p.columns);
    size.work = std::max(size.work, static_cast<std::int64_t>(work));
    size.integers = std::max(size.integers, 8 * std::min(p.rows, p.columns));
  }
  const auto solve_one = [&](const SingularProblem& p, double* matrix, double* work,
                             int* integers) {
    if (p.rows * p.columns == 0) return true;
    std::copy_n(p.matrix, p.rows * p.columns, matrix);
    return call(p, matrix, work, static_cast<int>(size.work), integers);
  };
  return solve_all(problems, size, threads, solve_one);
}

}  // namespace bertft
