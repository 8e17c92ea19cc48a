// The ceilings of a machine: multiply-adds per second from registers, bytes copied per second.
// Compiled by peak.py, once with the flags of each instruction set; 24 independent accumulators
// cover the latency of two units.
#include <chrono>
#include <cstdint>
#include <cstring>

namespace {

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(PEAK_VECTOR_BYTES)));
};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class T>
double flops_per_second(std::int64_t steps) {
  using vector = typename Vector<T>::type;
  constexpr int count = PEAK_ACCUMULATORS;
  vector sums[count];
  for (int i = 0; i < count; ++i) sums[i] = vector{} + T(i);  // or one would stand for all
  vector x = vector{} + T(0.999999), y = vector{} + T(1e-9);
  const double start = seconds();
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
    for (int i = 0; i < count; ++i) sums[i] = sums[i] * x + y;
  }
  const double elapsed = seconds() - start;
  volatile T sink = 0;
  for (const vector& sum : sums) sink = sink + sum[0];
  return 2.0 * count * (PEAK_VECTOR_BYTES / sizeof(T)) * steps / elapsed;
}

}  // namespace

extern "C" double peak_float32(std::int64_t steps) { return flops_per_second<float>(steps); }
extern "C" double peak_float64(std::int64_t steps) { return flops_per_second<double>(steps); }

// Bytes read and written per second by `rounds` copies.
extern "C" double copy_rate(char* to, const char* from, std::int64_t bytes, std::int64_t rounds) {
  const double start = seconds();
  for (std::int64_t round = 0; round < rounds; ++round) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    asm volatile("" : : "r"(to) : "memory");
  }
  return 2.0 * static_cast<double>(bytes) * static_cast<double>(rounds) / (seconds() - start);
}
