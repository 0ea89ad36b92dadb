// SPDX-License-Identifier: Apache-2.0
#include "tile_size.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.hpp"
#include "padding.hpp"

namespace keygraph {
namespace {

// Tile and overlap where the manifest holds no calibration, the smallest side where memory is scarce, and the pixels of
// one batch of tiles: those of tile_size.py.
constexpr std::int64_t kDefaultTile = 256;
constexpr std::int64_t kDefaultOverlap = 32;
constexpr std::int64_t kLeastTile = 64;
constexpr std::int64_t kBatchPixels = 256 * 256;

const char* const kExportDynamic =
    "leave the tile out, or export the checkpoint again with: export-model CHECKPOINT "
    "--shape dynamic";

double pixels(const Sides& size) { return static_cast<double>(size.rows) * static_cast<double>(size.columns); }

Sides square(std::int64_t side) { return {side, side}; }

// Beyond half a tile, three tiles in a row would share pixels.
std::int64_t max_overlap(std::int64_t tile, std::int64_t multiple) { return tile / 2 / multiple * multiple; }

// Two windows, so that an overlap is possible.
std::int64_t least_tile(const Manifest& manifest) { return 2 * manifest.least_side(); }

bool fits(const Sides& size, const std::optional<double>& most) { return !most || pixels(size) <= *most; }

// Return the default tile, or a smaller one that fits into memory.
std::int64_t fitting_tile(const Manifest& manifest, const std::optional<double>& most) {
  const std::int64_t standard = default_tile(manifest), multiple = manifest.size_multiple;
  if (fits(square(standard), most)) return standard;
  const std::int64_t least = std::max(round_up(kLeastTile, multiple), least_tile(manifest));
  const auto fitting = static_cast<std::int64_t>(std::sqrt(std::max(*most, 0.0))) / multiple * multiple;
  return std::min(standard, std::max(least, fitting));
}

// Check a size that the user gave against size_multiple and its limits.
std::int64_t checked(std::int64_t value, const std::string& name, std::int64_t multiple, std::int64_t least,
                     const std::optional<std::int64_t>& most) {
  const std::string is = name + " is " + std::to_string(value) + "; ";
  if (most && value > *most) {
    throw InputError(is + "with this tile it can be at most " + std::to_string(*most) + " (half a tile, in steps of " +
                     std::to_string(multiple) + ")");
  }
  if (value >= least && value % multiple == 0 && value <= kMostPixels) return value;
  const std::int64_t below = std::min(value, kMostPixels) / multiple * multiple;
  std::vector<std::string> valid;
  for (const std::int64_t size : {below, below + multiple}) {
    const bool possible = size >= least && (!most || size <= *most) && size <= kMostPixels;
    if (possible) valid.push_back(std::to_string(size));
  }
  if (valid.empty()) valid.push_back(std::to_string(least));
  throw InputError(is + "it must be a multiple of " + std::to_string(multiple) + ": use " + joined(valid, " or "));
}

std::optional<Profile> profile_for(const Manifest& manifest, const Sides& tile) {
  for (const Profile& profile : manifest.sizes()) {
    if (profile.takes(profile.batch[1], tile)) return profile;
  }
  return std::nullopt;
}

// Set the tile for a file that takes certain sizes only, and return its profile.
Profile built_for(const Manifest& manifest, Sides& shape, const std::optional<std::int64_t>& tile) {
  if (const auto profile = profile_for(manifest, shape)) return *profile;
  const std::vector<Profile> profiles = manifest.sizes();
  if (tile == kWholeImage || (!tile && manifest.global_statistics)) {
    for (const Profile& profile : profiles) {
      const Sides padded{std::max(shape.rows, profile.height[0]), std::max(shape.columns, profile.width[0])};
      if (padded.rows <= profile.height[2] && padded.columns <= profile.width[2]) {
        shape = padded;
        return profile;
      }
    }
  }
  if (!tile) {
    shape = {profiles[0].height[1], profiles[0].width[1]};
    return profiles[0];
  }
  const std::string is = "tile is " + (tile == kWholeImage ? "none" : std::to_string(*tile)) + ", but this file takes ";
  if (manifest.shape) {
    const Sides& only = manifest.shape->size;
    throw InputError(is + by({only.rows, only.columns}) + " pixels only; " + kExportDynamic);
  }
  std::vector<std::string> ranges;
  for (const Profile& profile : profiles) {
    ranges.push_back(by({profile.height[0], profile.width[0]}) + " to " + by({profile.height[2], profile.width[2]}));
  }
  throw InputError(is + joined(ranges, " or ") + "; leave the tile out");
}

TileChoice choice_of(const Manifest& manifest, const Sides& size, const Sides& tile, std::int64_t overlap,
                     const std::optional<std::int64_t>& batch, const std::optional<Profile>& profile, bool automatic,
                     const std::optional<double>& most) {
  const Sides least = profile ? Sides{profile->height[0], profile->width[0]} : square(manifest.least_side());
  TileChoice choice;
  choice.plan.rows = cut(size.rows, tile.rows, overlap, manifest.size_multiple, least.rows);
  choice.plan.columns = cut(size.columns, tile.columns, overlap, manifest.size_multiple, least.columns);
  choice.tile = {choice.plan.rows.tile, choice.plan.columns.tile};
  choice.overlap = overlap;
  const double together = std::min<double>(kBatchPixels, most.value_or(kBatchPixels));
  choice.batch = profile ? profile->batch[1]
                         : std::max<std::int64_t>(1, static_cast<std::int64_t>(together / pixels(choice.tile)));
  if (batch) choice.batch = *batch;
  if (profile) choice.max_batch = profile->batch[2];
  choice.automatic = automatic;
  return choice;
}

}  // namespace

TileChoice choose_tiles(const Manifest& manifest, const Sides& size, const RestoreOptions& options,
                        const PixelLimits& limits) {
  const std::int64_t multiple = manifest.size_multiple, least = round_up(manifest.least_side(), multiple);
  const Sides whole{std::max(round_up(size.rows, multiple), least), std::max(round_up(size.columns, multiple), least)};
  const auto& [tile, overlap, batch] = std::tie(options.tile, options.overlap, options.batch);
  const bool limited = !manifest.sizes().empty();
  Sides shape = whole;
  if (tile && *tile != kWholeImage) {
    shape = square(checked(*tile, "tile", multiple, least, std::nullopt));
  } else if (!tile && limited) {
    if (!manifest.global_statistics) shape = square(default_tile(manifest));
  } else if (!tile && (pixels(size) > std::max(limits.whole, pixels(square(default_tile(manifest)))) ||
                       !fits(whole, limits.of_a_run))) {
    shape = square(fitting_tile(manifest, limits.of_a_run));
  }
  std::optional<Profile> profile;
  if (limited) profile = built_for(manifest, shape, tile);
  // A whole image has no overlap, but the given one is used if the image must be tiled after all.
  std::optional<std::int64_t> limit;
  if (!(shape == whole)) limit = max_overlap(std::min(shape.rows, shape.columns), multiple);
  std::int64_t shared = 0;
  if (overlap) {
    shared = checked(*overlap, "overlap", multiple, 0, limit);
  } else {
    shared = manifest.tiling ? manifest.tiling->overlap : round_up(kDefaultOverlap, multiple);
    if (limit) shared = std::min(shared, *limit);
  }
  if (batch) {
    const std::string is = "batch is " + std::to_string(*batch);
    if (*batch < 1) throw InputError(is + "; it must be a whole number from 1");
    if (manifest.shape && *batch != manifest.shape->batch) {
      throw InputError(is + ", but this file takes " + std::to_string(manifest.shape->batch) +
                       " only; leave the batch out");
    }
    if (profile && *batch > profile->batch[2]) {
      throw InputError(is + ", but this model takes at most " + counted(profile->batch[2], "tile") + " of " +
                       by({shape.rows, shape.columns}) + " together; leave the batch out");
    }
  }
  return choice_of(manifest, size, shape, shared, batch, profile, !tile, limits.of_a_run);
}

std::optional<TileChoice> smaller(const Manifest& manifest, const Sides& size, const TileChoice& choice) {
  if (manifest.shape) return std::nullopt;
  const auto now = profile_for(manifest, choice.tile);
  if (choice.batch > (now ? now->batch[0] : 1)) {
    TileChoice less = choice;
    less.batch = choice.batch / 2;
    return less;
  }
  const std::int64_t multiple = manifest.size_multiple;
  const std::int64_t half =
      std::min(std::max(choice.tile.rows, choice.tile.columns) / 2 / multiple * multiple, default_tile(manifest));
  if (!choice.automatic || half < manifest.least_side()) return std::nullopt;
  const auto profile = profile_for(manifest, square(half));
  if (!manifest.profiles.empty() && !profile) return std::nullopt;
  const std::int64_t overlap = std::min(choice.overlap, max_overlap(half, multiple));
  return choice_of(manifest, size, square(half), overlap, 1, profile, true, std::nullopt);
}

std::int64_t default_tile(const Manifest& manifest) {
  if (manifest.tiling) return manifest.tiling->tile;
  return std::max(round_up(kDefaultTile, manifest.size_multiple), least_tile(manifest));
}

}  // namespace keygraph
