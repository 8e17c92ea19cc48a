#include "isa/table.h"

#include <atomic>
#include <cstring>

namespace bertft::isa {

#if defined(__x86_64__)
const Table& avx512_table();
const Table& avx2_table();
#endif
const Table& portable_table();

namespace {

// At most three sets, the widest first, and an end mark.
struct Sets {
  const Table* tables[4] = {};
  const char* names[4] = {};

  Sets() {
    int count = 0;
    const auto add = [&](const Table& table) {
      tables[count] = &table;
      names[count++] = table.name;
    };
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      add(avx512_table());
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c")) {
      add(avx2_table());
    }
#endif
    add(portable_table());
  }
};

const Sets& sets() {
  static const Sets found;
  return found;
}

std::atomic<const Table*> chosen{nullptr};

}  // namespace

const Table& active() {
  const Table* table = chosen.load(std::memory_order_acquire);
  return table != nullptr ? *table : *sets().tables[0];
}

const char* const* available() { return sets().names; }

bool select(const char* name) {
  for (const Table* const* table = sets().tables; *table != nullptr; ++table) {
    if (std::strcmp((*table)->name, name) == 0) {
      chosen.store(*table, std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace bertft::isa
