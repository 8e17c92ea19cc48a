// Correlations of two long vectors by rank: Spearman's rho and Kendall's tau-a.
//
// Equal values share the mean of their ranks. Sorting is a stable radix sort by parallel passes;
// the number of threads does not change a bit of the result. Values are finite.
#pragma once

#include <cstdint>

namespace bertft {

// The Pearson correlation of the ranks of x and y, `count` values each, at most 2^31; NaN if all
// values of a side are equal. O(count). Throws std::bad_alloc.
template <class T>
double spearman(const T* x, const T* y, std::int64_t count, int threads);

// (concordant - discordant) over all pairs of positions, those with equal values counted as
// neither; NaN if all values of a side are equal. O(count log count). Throws std::bad_alloc.
template <class T>
double kendall(const T* x, const T* y, std::int64_t count, int threads);

}  // namespace bertft
