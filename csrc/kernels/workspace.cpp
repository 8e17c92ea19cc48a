#include "kernels/workspace.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace bertft {
namespace {

struct Memory {
  char* address = nullptr;
  std::size_t bytes = 0;
  ~Memory() { std::free(address); }
};

thread_local Memory kept;

constexpr std::size_t kMostKept = std::size_t{128} << 20;
// Where the system has pages of this size, panels in them miss neither translations nor, by chance
// of where small pages lie, the cache.
constexpr std::size_t kHugePage = std::size_t{1} << 21;

char* allocate_pages(std::size_t bytes) {
  const std::size_t alignment = bytes < kHugePage ? 64 : kHugePage;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = rounded < bytes ? nullptr : std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(memory);
}

}  // namespace

void Workspace::allocate() const {
  if (kept.bytes < bytes_) {
    std::free(kept.address);
    kept.bytes = 0;
    kept.address = nullptr;
    kept.address = allocate_pages(bytes_);
    kept.bytes = bytes_;
  }
}

Workspace::~Workspace() {
  if (kept.bytes <= kMostKept) return;
  std::free(kept.address);
  kept.address = nullptr;
  kept.bytes = 0;
}

void Workspace::attach() { memory_ = kept.address; }

}  // namespace bertft
