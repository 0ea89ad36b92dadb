// SPDX-License-Identifier: Apache-2.0
//
// Padding by reflection at the bottom and the right edge, as runtime/preprocess/padding.py.
#pragma once

#include <algorithm>
#include <cstdint>

namespace keygraph {

// Return the smallest multiple that is at least `length`.
inline std::int64_t round_up(std::int64_t length, std::int64_t multiple) {
  return (length + multiple - 1) / multiple * multiple;
}

// Return which position of an axis of `length` a position of the padded axis shows: 0 1 2 | 1 0 1 2 ...
inline std::int64_t reflected(std::int64_t position, std::int64_t length) {
  if (length == 1) return 0;
  const std::int64_t period = 2 * (length - 1);
  position %= period;
  return std::min(position, period - position);
}

}  // namespace keygraph
