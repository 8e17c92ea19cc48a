// Checks of what probes should say, and of the spans that they read.
#pragma once

#include "bindings/view.h"

namespace bertft {

// Classes of `count` targets, each -1 or one of the probe's labels.
void require_classes(const Checker& check, const std::int64_t* classes, std::int64_t probe,
                     std::int64_t labels, std::int64_t count);

// Rows of labels for `count` targets, each 0, 1 or 255.
void require_labels(const Checker& check, const std::uint8_t* labels, std::int64_t probe,
                    std::int64_t first, std::int64_t last, std::int64_t count);

// Classes (probes, count) or labels (probes x labels, count); returns whether they are classes.
bool require_targets(const Checker& check, const View& targets, std::int64_t probes,
                     std::int64_t labels, std::int64_t count);

// Spans of at least one of some rows.
void require_spans(const Checker& check, const View& starts, const View& stops, std::int64_t spans,
                   std::int64_t rows);

}  // namespace bertft
