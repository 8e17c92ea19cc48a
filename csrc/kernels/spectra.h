// Eigenvalues and singular values of many matrices, one thread for each matrix.
//
// The factorizations are LAPACK's, through pointers that the caller passes; what is ours is the
// batch. The library behind them must run each call on the calling thread.
#pragma once

#include <cstdint>
#include <vector>

namespace bertft {

// LAPACK routines with 32-bit integers.
using Dsyevd = void (*)(const char* jobz, const char* uplo, const int* n, double* a, const int* lda,
                        double* w, double* work, const int* lwork, int* iwork, const int* liwork,
                        int* info);
using Dgesdd = void (*)(const char* jobz, const int* m, const int* n, double* a, const int* lda,
                        double* s, double* u, const int* ldu, double* vt, const int* ldvt,
                        double* work, const int* lwork, int* iwork, int* info);

// A symmetric (d, d) matrix, of which the upper triangle is read; values (d), ascending; vectors
// (d, d) as rows, or nullptr. All contiguous and row-major, none overlapping.
struct SymmetricProblem {
  const double* matrix;
  std::int64_t columns;
  double *values, *vectors;
};

// An (m, n) matrix with k = min(m, n); values (k), descending; left (m, k) and right (k, n), the
// right vectors as rows, or both nullptr.
struct SingularProblem {
  const double* matrix;
  std::int64_t rows, columns;
  double *values, *left, *right;
};

// Solve every problem; return the first that LAPACK could not, or -1. Which thread solves a problem
// does not change its result. Throw std::bad_alloc before anything is written. O(d^3) each; memory
// of a few matrices of the largest size for each thread.
std::int64_t solve(const std::vector<SymmetricProblem>& problems, Dsyevd routine, int threads);
std::int64_t solve(const std::vector<SingularProblem>& problems, Dgesdd routine, int threads);

}  // namespace bertft
