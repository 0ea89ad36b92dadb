// SPDX-License-Identifier: Apache-2.0
//
// Cut an image into overlapping tiles, and blend the restored tiles, as runtime/tiling/blend.py: the same numbers in the
// same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace keygraph {

// The tiles along one axis: the padded length, the size of every tile, and where they begin.
struct Axis {
  std::int64_t length = 0;
  std::int64_t tile = 0;
  std::vector<std::int64_t> origins;
};

struct Plan {
  Axis rows;
  Axis columns;

  std::int64_t tiles() const { return static_cast<std::int64_t>(rows.origins.size() * columns.origins.size()); }
};

// Place the fewest tiles that overlap by at least `overlap`, spread evenly, their origins multiples of `multiple`.
// `least` is the smallest tile that the model takes.
Axis cut(std::int64_t length, std::int64_t tile, std::int64_t overlap, std::int64_t multiple, std::int64_t least);

// Return the blending weights of every tile along one axis, [tiles][tile * scale]. See blend.py for the form.
std::vector<std::vector<float>> weights(const Axis& axis, std::int64_t scale);

// Rows of the result that are final: float[channels][height][width], of which `rows` from the top are valid.
struct Band {
  const float* values;
  std::int64_t top;
  std::int64_t rows;
  std::int64_t height;
  std::int64_t width;
};

// Blend tiles. `tile(i)` returns float[channels][tile height * scale][tile width * scale] of the i-th, row by row;
// `emit` takes the bands from the top.
void blend(const Plan& plan, std::int64_t channels, std::int64_t scale,
           const std::function<const float*(std::int64_t)>& tile, const std::function<void(const Band&)>& emit);

}  // namespace keygraph
