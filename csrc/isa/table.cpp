#include "isa/table.h"

namespace bertft::isa {

#if defined(__x86_64__)
const Table& avx512_table();
const Table& avx2_table();
#endif
const Table& portable_table();

const Table& active() {
#if defined(__x86_64__)
  static const Table& table = [&]() -> const Table& {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      return avx512_table();
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_table();
    return portable_table();
  }();
  return table;
#else
  return portable_table();
#endif
}

}  // namespace bertft::isa
