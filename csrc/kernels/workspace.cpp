#include "kernels/workspace.h"

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

}  // namespace

void Workspace::allocate() const {
  if (kept.bytes < bytes_) {
    std::free(kept.address);
    kept.bytes = 0;
    kept.address = static_cast<char*>(std::aligned_alloc(64, bytes_));
    if (kept.address == nullptr) throw std::bad_alloc();
    kept.bytes = bytes_;
  }
}

void Workspace::attach() { memory_ = kept.address; }

}  // namespace bertft
