#include "kernels/rank_correlation.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <vector>

#include "kernels/thread_pool.h"

namespace bertft {
namespace {

// Parts of a vector that are worked on at a time, whatever the number of threads.
constexpr std::int64_t kParts = 16;
constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;

template <class T>
using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

// Unsigned integers in the order of the values; 0 and -0 become equal.
template <class T>
Bits<T> ordered(T value) {
  const auto bits = std::bit_cast<Bits<T>>(value + T(0));
  constexpr Bits<T> sign = Bits<T>(1) << (8 * sizeof(T) - 1);
  return bits & sign ? ~bits : bits | sign;
}

template <class Key>
struct Entry {
  Key key;
  std::uint32_t payload;
};

std::int64_t part_start(std::int64_t part, std::int64_t count) { return count * part / kParts; }

template <class Body>
void for_each_part(std::int64_t count, int threads, const Body& body) {
  parallel_for(kParts, threads, [&](std::int64_t part, int) {
    body(part, part_start(part, count), part_start(part + 1, count));
  });
}

// Sorts by key; entries with equal keys keep their order. One pass for each digit: every part
// counts its digits, then moves its entries to places that no other part writes.
template <class Key>
void sort(std::vector<Entry<Key>>& entries, int threads) {
  const auto count = static_cast<std::int64_t>(entries.size());
  std::vector<Entry<Key>> other(entries.size());
  std::array<std::array<std::int64_t, kDigits>, kParts> places;
  for (unsigned shift = 0; shift < 8 * sizeof(Key); shift += kDigitBits) {
    const auto digit = [shift](const Entry<Key>& e) { return (e.key >> shift) & (kDigits - 1); };
    for_each_part(count, threads, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
      places[part].fill(0);
      for (std::int64_t i = first; i < last; ++i) ++places[part][digit(entries[i])];
    });
    std::int64_t place = 0;
    bool is_sorted = false;
    for (int d = 0; d < kDigits; ++d) {
      const std::int64_t before = place;
      for (auto& of_part : places) {
        const std::int64_t found = of_part[d];
        of_part[d] = place;
        place += found;
      }
      is_sorted |= place - before == count;
    }
    if (is_sorted) continue;  // all entries have this digit
    for_each_part(count, threads, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
      auto& next = places[part];
      for (std::int64_t i = first; i < last; ++i) other[next[digit(entries[i])]++] = entries[i];
    });
    entries.swap(other);
  }
}

// Calls visit(first, last) for every run of equal keys that begins in a part.
template <class Key, class Visit>
void for_each_run(const std::vector<Entry<Key>>& entries, std::int64_t first, std::int64_t last,
                  const Visit& visit) {
  const auto count = static_cast<std::int64_t>(entries.size());
  while (first > 0 && first < last && entries[first].key == entries[first - 1].key) ++first;
  while (first < last) {
    std::int64_t stop = first + 1;
    while (stop < count && entries[stop].key == entries[first].key) ++stop;
    visit(first, stop);
    first = stop;
  }
}

template <class T>
std::vector<Entry<Bits<T>>> sorted(const T* values, std::int64_t count, int threads) {
  std::vector<Entry<Bits<T>>> entries(static_cast<std::size_t>(count));
  for_each_part(count, threads, [&](std::int64_t, std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      entries[i] = {ordered(values[i]), static_cast<std::uint32_t>(i)};
    }
  });
  sort(entries, threads);
  return entries;
}

double sum(const std::array<double, kParts>& parts) {
  double total = 0.0;
  for (double part : parts) total += part;
  return total;
}

// Sorts both halves of a sequence, whose halves are sorted, and counts the pairs out of order.
std::int64_t merge(const std::uint32_t* from, std::int64_t first, std::int64_t middle,
                   std::int64_t last, std::uint32_t* to) {
  std::int64_t inversions = 0, i = first, j = middle, k = first;
  while (i < middle && j < last) {
    const bool is_later = from[j] < from[i];
    to[k++] = is_later ? from[j] : from[i];
    inversions += is_later ? middle - i : 0;
    j += is_later;
    i += !is_later;
  }
  std::copy(from + i, from + middle, to + k);
  std::copy(from + j, from + last, to + k + (middle - i));
  return inversions;
}

// Pairs i < j with values[i] > values[j]; sorts the values.
std::int64_t count_inversions(std::vector<std::uint32_t>& values, int threads) {
  const auto count = static_cast<std::int64_t>(values.size());
  std::vector<std::uint32_t> other(values.size());
  std::array<std::int64_t, kParts> inversions{};
  for_each_part(count, threads, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
    std::uint32_t *from = values.data(), *to = other.data();
    for (std::int64_t width = 1; width < last - first; width *= 2) {
      for (std::int64_t i = first; i < last; i += 2 * width) {
        inversions[part] +=
            merge(from, i, std::min(i + width, last), std::min(i + 2 * width, last), to);
      }
      std::swap(from, to);
    }
    if (from != values.data()) std::copy(from + first, from + last, values.data() + first);
  });
  for (std::int64_t step = 1; step < kParts; step *= 2) {
    parallel_for(kParts / (2 * step), threads, [&](std::int64_t task, int) {
      const std::int64_t part = 2 * step * task;
      inversions[part] +=
          merge(values.data(), part_start(part, count), part_start(part + step, count),
                part_start(part + 2 * step, count), other.data());
    });
    values.swap(other);
  }
  std::int64_t total = 0;
  for (std::int64_t part : inversions) total += part;
  return total;
}

std::int64_t pairs_of(std::int64_t count) { return count * (count - 1) / 2; }

}  // namespace

template <class T>
double spearman(const T* x, const T* y, std::int64_t count, int threads) {
  // Twice the rank less its mean, which is a whole number.
  const auto centered = [count](std::int64_t first, std::int64_t last) {
    return static_cast<std::int32_t>(first + last - count);
  };
  std::vector<std::int32_t> ranks(static_cast<std::size_t>(count));
  std::array<double, kParts> xx{}, yy{}, xy{};
  {
    const auto entries = sorted(x, count, threads);
    for_each_part(count, threads, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
      for_each_run(entries, begin, end, [&](std::int64_t first, std::int64_t last) {
        const std::int32_t rank = centered(first, last);
        for (std::int64_t i = first; i < last; ++i) ranks[entries[i].payload] = rank;
        xx[part] += static_cast<double>(last - first) * rank * rank;
      });
    });
  }
  const auto entries = sorted(y, count, threads);
  for_each_part(count, threads, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
    for_each_run(entries, begin, end, [&](std::int64_t first, std::int64_t last) {
      const double rank = centered(first, last);
      double sum_x = 0.0;
      for (std::int64_t i = first; i < last; ++i) sum_x += ranks[entries[i].payload];
      xy[part] += rank * sum_x;
      yy[part] += static_cast<double>(last - first) * rank * rank;
    });
  });
  return sum(xy) / std::sqrt(sum(xx) * sum(yy));
}

template <class T>
double kendall(const T* x, const T* y, std::int64_t count, int threads) {
  // By y, then stably by x: the ranks of y in the order of x, and of y where x is equal.
  std::array<std::int64_t, kParts> ties_x{}, ties_y{}, ties_both{};
  std::vector<Entry<Bits<T>>> by_x(static_cast<std::size_t>(count));
  std::vector<std::uint32_t> rank_of(static_cast<std::size_t>(count));
  {
    const auto by_y = sorted(y, count, threads);
    for_each_part(count, threads, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
      for_each_run(by_y, begin, end, [&](std::int64_t first, std::int64_t last) {
        ties_y[part] += pairs_of(last - first);
        for (std::int64_t i = first; i < last; ++i) {
          by_x[i] = {ordered(x[by_y[i].payload]), static_cast<std::uint32_t>(first)};
        }
      });
    });
  }
  sort(by_x, threads);
  for_each_part(count, threads, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
    for_each_run(by_x, begin, end, [&](std::int64_t first, std::int64_t last) {
      ties_x[part] += pairs_of(last - first);
      for (std::int64_t i = first; i < last;) {
        std::int64_t stop = i + 1;
        while (stop < last && by_x[stop].payload == by_x[i].payload) ++stop;
        ties_both[part] += pairs_of(stop - i);
        i = stop;
      }
      for (std::int64_t i = first; i < last; ++i) rank_of[i] = by_x[i].payload;
    });
  });
  const auto total = [](const auto& parts) {
    return std::accumulate(parts.begin(), parts.end(), 0L);
  };
  const std::int64_t all = pairs_of(count), equal_x = total(ties_x), equal_y = total(ties_y);
  if (equal_x == all || equal_y == all) return std::nan("");
  const std::int64_t untied = all - equal_x - equal_y + total(ties_both);
  const std::int64_t discordant = count_inversions(rank_of, threads);
  return static_cast<double>(untied - 2 * discordant) / static_cast<double>(all);
}

template double spearman(const float*, const float*, std::int64_t, int);
template double spearman(const double*, const double*, std::int64_t, int);
template double kendall(const float*, const float*, std::int64_t, int);
template double kendall(const double*, const double*, std::int64_t, int);

}  // namespace bertft
