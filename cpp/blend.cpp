// SPDX-License-Identifier: Apache-2.0
#include "blend.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
#include "padding.hpp"

namespace keygraph {

Axis cut(std::int64_t length, std::int64_t tile, std::int64_t overlap, std::int64_t multiple, std::int64_t least) {
  const std::int64_t padded = std::max(round_up(length, multiple), least);
  if (padded <= tile) return {padded, padded, {0}};
  const std::int64_t count = (padded - overlap + tile - overlap - 1) / (tile - overlap);
  const std::int64_t slack = (padded - tile) / multiple;
  Axis axis{padded, tile, {}};
  for (std::int64_t i = 0; i < count; i++) axis.origins.push_back(i * slack / (count - 1) * multiple);
  return axis;
}

std::vector<std::vector<float>> weights(const Axis& axis, std::int64_t scale) {
  const double pi = std::acos(-1.0);
  const auto size = static_cast<std::size_t>(axis.tile * scale);
  std::vector<std::vector<double>> raw(axis.origins.size(), std::vector<double>(size, 1.0));
  for (std::size_t i = 0; i + 1 < raw.size(); i++) {
    const auto overlap = static_cast<double>((axis.origins[i] + axis.tile - axis.origins[i + 1]) * scale);
    if (overlap <= 0) continue;
    for (std::size_t at = 0; at < size; at++) {
      const double centre = static_cast<double>(at) + 0.5;
      const double rise = 0.5 - 0.5 * std::cos(pi * std::clamp((centre - overlap / 4) / (overlap / 2), 0.0, 1.0));
      raw[i][size - 1 - at] *= rise;
      raw[i + 1][at] *= rise;
    }
  }
  std::vector<double> total(static_cast<std::size_t>(axis.length * scale));
  const auto begin = [&](std::size_t i) { return static_cast<std::size_t>(axis.origins[i] * scale); };
  for (std::size_t i = 0; i < raw.size(); i++) {
    for (std::size_t at = 0; at < size; at++) total[begin(i) + at] += raw[i][at];
  }
  std::vector<std::vector<float>> found;
  for (std::size_t i = 0; i < raw.size(); i++) {
    std::vector<float>& of_tile = found.emplace_back(size);
    for (std::size_t at = 0; at < size; at++) of_tile[at] = static_cast<float>(raw[i][at] / total[begin(i) + at]);
  }
  return found;
}

void blend(const Plan& plan, std::int64_t channels, std::int64_t scale,
           const std::function<const float*(std::int64_t)>& tile, const std::function<void(const Band&)>& emit) {
  const std::int64_t height = plan.rows.tile * scale, width = plan.columns.tile * scale;
  const std::int64_t across_all = plan.columns.length * scale;
  const auto rows = static_cast<std::int64_t>(plan.rows.origins.size());
  const auto columns = static_cast<std::int64_t>(plan.columns.origins.size());
  if (rows == 1 && columns == 1) return emit({tile(0), 0, height, height, width});
  const auto down = weights(plan.rows, scale), across = weights(plan.columns, scale);
  std::vector<float> canvas(elements({channels, height, across_all}));
  for (std::int64_t row = 0; row < rows; row++) {
    const std::int64_t top = plan.rows.origins[static_cast<std::size_t>(row)];
    for (std::int64_t column = 0; column < columns; column++) {
      const float* values = tile(row * columns + column);
      const std::vector<float>& row_weights = down[static_cast<std::size_t>(row)];
      const std::vector<float>& column_weights = across[static_cast<std::size_t>(column)];
      float* begin = canvas.data() + plan.columns.origins[static_cast<std::size_t>(column)] * scale;
      for (std::int64_t line = 0; line < channels * height; line++) {
        const float weight = row_weights[static_cast<std::size_t>(line % height)];
        float* target = begin + line * across_all;
        for (std::int64_t x = 0; x < width; x++) {
          target[x] += values[line * width + x] * (weight * column_weights[static_cast<std::size_t>(x)]);
        }
      }
    }
    const std::int64_t end = row + 1 < rows ? plan.rows.origins[static_cast<std::size_t>(row) + 1] : plan.rows.length;
    const std::int64_t finished = (end - top) * scale;
    emit({canvas.data(), top * scale, finished, height, across_all});
    // The rows below overlap the next row of tiles: they move up, and the rest starts at zero.
    for (std::int64_t channel = 0; channel < channels; channel++) {
      float* begin = canvas.data() + channel * height * across_all;
      float* kept = std::copy(begin + finished * across_all, begin + height * across_all, begin);
      std::fill(kept, begin + height * across_all, 0.0f);
    }
  }
}

}  // namespace keygraph
