// SPDX-License-Identifier: Apache-2.0
//
// Choose tile, overlap and batch for an image, as runtime/tiling/tile_size.py.
#pragma once

#include <cstdint>
#include <optional>

#include "blend.hpp"
#include "keygraph/runtime.hpp"
#include "manifest.hpp"

namespace keygraph {

// Images of up to this many pixels are restored whole.
constexpr std::int64_t kWholePixels = 512 * 512;

struct TileChoice {
  Plan plan;
  Sides tile;                // For a whole image, its padded size.
  std::int64_t overlap = 0;  // Unused for a whole image.
  std::int64_t batch = 1;
  std::optional<std::int64_t> max_batch;  // Most images that one run takes.
  bool automatic = false;                 // Whether a smaller tile may replace it.
};

// How many pixels fit into memory.
struct PixelLimits {
  double whole = kWholePixels;     // Images of up to so many are restored whole,
  std::optional<double> of_a_run;  // unless a run, batch included, may not have as many.
};

// Choose how to tile an image of a size. Throws InputError where an option is not possible.
TileChoice choose_tiles(const Manifest& manifest, const Sides& size, const RestoreOptions& options,
                        const PixelLimits& limits);

// Return the next choice that needs less memory: the batch is halved first, then a tile that was chosen automatically.
std::optional<TileChoice> smaller(const Manifest& manifest, const Sides& size, const TileChoice& choice);

// Return the side of the tiles that a model takes by default.
std::int64_t default_tile(const Manifest& manifest);

}  // namespace keygraph
