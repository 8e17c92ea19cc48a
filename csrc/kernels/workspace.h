// Aligned scratch memory that a thread keeps from call to call: fresh pages cost several times the
// packing that fills them. It grows to the largest need; more than 128 MiB is freed with the
// workspace that asked for it, the rest when the thread ends. One kernel at a time uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bertft {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();

  // Reserves room for `count` values, aligned to a cache line; returns the place for `at`.
  template <class T>
  std::size_t add(std::int64_t count) {
    const std::size_t place = bytes_;
    bytes_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return place;
  }

  // Obtains enough for what was reserved; throws std::bad_alloc.
  void allocate() const;

  // Takes the thread's memory, obtained before; contents are undefined. Others that attach share
  // it.
  void attach();

  template <class T>
  T* at(std::size_t place) const {
    return reinterpret_cast<T*>(memory_ + place);
  }

 private:
  std::size_t bytes_ = 0;
  char* memory_ = nullptr;
};

}  // namespace bertft
