#include "bindings/targets.h"

#include <algorithm>

namespace bertft {
namespace {

std::string place(std::int64_t probe, std::int64_t target) {
  return " for target " + std::to_string(target) + " of probe " + std::to_string(probe);
}

}  // namespace

void require_classes(const Checker& check, const std::int64_t* classes, std::int64_t probe,
                     std::int64_t labels, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t got = classes[probe * count + i];
    if (got < -1 || got >= labels) {
      check.fail("targets must be -1 or below the " + std::to_string(labels) +
                 " labels of their probe, got " + std::to_string(got) + place(probe, i) +
                 "; check the labels.");
    }
  }
}

void require_labels(const Checker& check, const std::uint8_t* labels, std::int64_t probe,
                    std::int64_t first, std::int64_t last, std::int64_t count) {
  for (std::int64_t c = first; c < last; ++c) {
    const std::uint8_t* row = labels + c * count;
    // One more than 255, 0 and 1 is 0, 1 and 2 in a byte; vectors have a maximum of bytes.
    std::uint8_t most = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      most = std::max(most, static_cast<std::uint8_t>(row[i] + 1));
    }
    if (most <= 2) continue;
    std::int64_t i = 0;
    while (static_cast<std::uint8_t>(row[i] + 1) <= 2) ++i;
    check.fail("targets must be 0, 1 or 255 for none, got " + std::to_string(row[i]) +
               place(probe, i) + "; check the labels.");
  }
}

bool require_targets(const Checker& check, const View& targets, std::int64_t probes,
                     std::int64_t labels, std::int64_t count) {
  const bool has_classes = targets.dtype == DType::kInt64;
  check.contiguous(targets, "targets", has_classes ? DType::kInt64 : DType::kUInt8,
                   {has_classes ? probes : probes * labels, count});
  for (std::int64_t k = 0; k < probes; ++k) {
    if (has_classes) {
      require_classes(check, as<const std::int64_t>(targets), k, labels, count);
    } else {
      require_labels(check, as<const std::uint8_t>(targets), k, k * labels, (k + 1) * labels,
                     count);
    }
  }
  return has_classes;
}

void require_spans(const Checker& check, const View& starts, const View& stops, std::int64_t spans,
                   std::int64_t rows) {
  check.contiguous(starts, "starts", DType::kInt64, {spans});
  check.contiguous(stops, "stops", DType::kInt64, {spans});
  const auto *first = as<const std::int64_t>(starts), *last = as<const std::int64_t>(stops);
  for (std::int64_t b = 0; b < spans; ++b) {
    if (first[b] < 0 || first[b] >= last[b] || last[b] > rows) {
      check.fail("spans must be non-empty and inside x of " + std::to_string(rows) +
                 " rows, got [" + std::to_string(first[b]) + ", " + std::to_string(last[b]) +
                 ") at " + std::to_string(b) + "; drop it.");
    }
  }
}

}  // namespace bertft
