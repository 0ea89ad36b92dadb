// SPDX-License-Identifier: Apache-2.0
#include "manifest.hpp"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <set>
#include <utility>

#include "errors.hpp"
#include "json.hpp"
#include "tile_size.hpp"

namespace keygraph {
namespace {

constexpr std::int64_t kPictureChannels = 4;

template <class Read>
auto if_present(const Json* json, const std::string& path, Read read) {
  using Value = decltype(read(*json, path));
  return json && !json->is_null() ? std::optional<Value>(read(*json, path)) : std::nullopt;
}

template <class Read>
auto list_of(const Json* json, const std::string& path, Read read) {
  std::vector<decltype(read(*json, path))> found;
  if (!json) return found;
  const JsonArray& array = to_array(*json, path);
  for (std::size_t i = 0; i < array.size(); i++) found.push_back(read(array[i], path + "[" + std::to_string(i) + "]"));
  return found;
}

Sides to_sides(const Json& json, const std::string& path) {
  const auto sides = to_integers(json, path, 2);
  return {sides[0], sides[1]};
}

Range to_range(const Json& json, const std::string& path) {
  const auto range = to_reals(json, path, 2);
  return {range[0], range[1]};
}

std::array<std::int64_t, 3> to_three(const Json& json, const std::string& path) {
  const auto three = to_integers(json, path, 3);
  return {three[0], three[1], three[2]};
}

Neighbours to_neighbours(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  Neighbours found;
  found.standard = to_integer(fields.required("default"), fields.path("default"));
  found.maximum = to_integer(fields.required("maximum"), fields.path("maximum"));
  found.trained = list_of(fields.optional("trained"), fields.path("trained"), to_integer);
  found.runtime = if_present(fields.optional("runtime"), fields.path("runtime"), to_bool).value_or(true);
  fields.require_known();
  return found;
}

Tiling to_tiling(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  Tiling found;
  found.tile = to_integer(fields.required("tile"), fields.path("tile"));
  found.overlap = to_integer(fields.required("overlap"), fields.path("overlap"));
  found.psnr = to_real(fields.required("psnr"), fields.path("psnr"));
  fields.require_known();
  return found;
}

Statistics to_statistics(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  Statistics found;
  found.memory = if_present(&fields.required("memory"), fields.path("memory"), to_real);
  found.tilings = list_of(&fields.required("tilings"), fields.path("tilings"), to_tiling);
  fields.required("exact");  // Of the Python runtime.
  fields.require_known();
  return found;
}

ExtraInput to_extra_input(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  ExtraInput found;
  found.name = to_string(fields.required("name"), fields.path("name"));
  found.channels = to_integer(fields.required("channels"), fields.path("channels"));
  found.margin = if_present(fields.optional("margin"), fields.path("margin"), to_sides).value_or(Sides{});
  fields.require_known();
  return found;
}

Profile to_profile(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  const Profile found{to_three(fields.required("batch"), fields.path("batch")),
                      to_three(fields.required("height"), fields.path("height")),
                      to_three(fields.required("width"), fields.path("width"))};
  fields.require_known();
  return found;
}

Shape to_shape(const Json& json, const std::string& path) {
  const auto shape = to_three(json, path);
  return {shape[0], {shape[1], shape[2]}};
}

// Whether an attention runs as keygraph's operators.
bool is_fused(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  const std::string verdict = to_string(fields.required("verdict"), fields.path("verdict"));
  const std::set<std::string> known{"fused", "by hand", "packed", "unchanged"};
  if (known.count(verdict) == 0) throw JsonError("unknown verdict - at `" + fields.path("verdict") + "`");
  return verdict != "unchanged";
}

Normalise to_normalise(const Json& json, const std::string& path) {
  const std::string name = to_string(json, path);
  const std::vector<std::string> names{"type", "range", "peak", "none"};
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) throw JsonError("unknown normalisation - at `" + path + "`");
  return static_cast<Normalise>(found - names.begin());
}

Manifest decode(const Json& json) {
  JsonFields fields(json, "$");
  const auto required = [&](const char* name, auto read) { return read(fields.required(name), fields.path(name)); };
  const auto nullable = [&](const char* name, auto read) {
    return if_present(&fields.required(name), fields.path(name), read);
  };
  const auto given = [&](const char* name, auto read) {
    return if_present(fields.optional(name), fields.path(name), read);
  };
  const auto list = [&](const char* name, auto read) {
    return list_of(fields.optional(name), fields.path(name), read);
  };
  Manifest found;
  found.architecture = required("architecture", to_string);
  found.scale = required("scale", to_integer);
  found.in_channels = required("in_channels", to_integer);
  found.out_channels = required("out_channels", to_integer);
  found.value_range = required("value_range", to_range);
  found.size_multiple = required("size_multiple", to_integer);
  found.smallest = given("smallest", to_integer).value_or(1);
  found.global_statistics = required("global_statistics", to_bool);
  found.neighbours = nullable("neighbours", to_neighbours);
  found.views = list("views", to_string);
  found.normalisation = given("normalisation", to_normalise).value_or(Normalise::kType);
  found.gain = given("gain", to_real).value_or(1.0);
  found.margin = given("margin", to_sides).value_or(Sides{});
  found.extra_inputs = list("extra_inputs", to_extra_input);
  found.clamp = given("clamp", to_range);
  const auto wavelengths = list("wavelengths", to_real);
  found.has_wavelengths = !wavelengths.empty();
  found.shape = nullable("shape", to_shape);
  found.tiling = given("tiling", to_tiling);
  found.statistics = given("statistics", to_statistics);
  found.profiles = list("profiles", to_profile);
  const auto fused = list("attentions", is_fused);
  found.fused_attentions = std::find(fused.begin(), fused.end(), true) != fused.end();
  if (!wavelengths.empty() && wavelengths.size() != static_cast<std::size_t>(found.out_channels)) {
    throw JsonError("one wavelength for each of out_channels is needed - at `$.wavelengths`");
  }
  // Provenance, which restoring an image does not need.
  for (const char* name : {"task", "configuration", "precision", "weights_sha256"}) fields.required(name);
  for (const char* name : {"made_with", "verification", "half", "digest", "format_version"}) fields.optional(name);
  fields.require_known();
  return found;
}

bool is_size(std::int64_t value, std::int64_t least = 1) { return value >= least && value <= kMostPixels; }

bool is_margin(const Sides& margin) { return is_size(margin.rows, 0) && is_size(margin.columns, 0); }

bool is_range(const Range& range) {
  return std::isfinite(range.low) && std::isfinite(range.high) && range.low < range.high;
}

bool are_profiles(const std::vector<Profile>& profiles) {
  return std::all_of(profiles.begin(), profiles.end(), [](const Profile& profile) {
    for (const auto& [minimum, optimum, maximum] : {profile.batch, profile.height, profile.width}) {
      if (!(is_size(minimum) && minimum <= optimum && optimum <= maximum && is_size(maximum))) return false;
    }
    return true;
  });
}

bool are_extra_inputs(const std::vector<ExtraInput>& extras) {
  std::set<std::string> names{kImageInput, kKInput};
  return std::all_of(extras.begin(), extras.end(), [&](const ExtraInput& extra) {
    return names.insert(extra.name).second && is_size(extra.channels) && is_margin(extra.margin);
  });
}

// Return the fields that the runtime computes with and that no model can have.
std::vector<std::string> impossible(const Manifest& manifest) {
  const auto& [neighbours, tiling] = std::tie(manifest.neighbours, manifest.tiling);
  const bool multiple = is_size(manifest.size_multiple);
  const bool smallest = manifest.smallest == 1 ||
                        (multiple && is_size(manifest.smallest) && manifest.smallest % manifest.size_multiple == 0);
  const auto views = static_cast<std::int64_t>(manifest.views.size());
  const std::pair<const char*, bool> fields[] = {
      {"scale", is_size(manifest.scale)},
      {"in_channels", is_size(manifest.in_channels) && manifest.in_channels >= views},
      {"out_channels", is_size(manifest.out_channels)},
      {"size_multiple", multiple},
      {"smallest", smallest},
      {"value_range", is_range(manifest.value_range)},
      {"clamp", !manifest.clamp || is_range(*manifest.clamp)},
      {"shape", !manifest.shape || (is_size(manifest.shape->batch) && is_size(manifest.shape->size.rows) &&
                                    is_size(manifest.shape->size.columns))},
      {"margin", is_margin(manifest.margin)},
      {"gain", std::isfinite(manifest.gain)},
      {"neighbours", !neighbours || (1 <= neighbours->standard && neighbours->standard <= neighbours->maximum)},
      {"tiling", !tiling || (is_size(tiling->tile) && 0 <= tiling->overlap && tiling->overlap < tiling->tile)},
      {"extra_inputs", are_extra_inputs(manifest.extra_inputs)},
      {"profiles", are_profiles(manifest.profiles)},
  };
  std::vector<std::string> found;
  for (const auto& [name, possible] : fields) {
    if (!possible) found.push_back(std::string("`") + name + "`");
  }
  return found;
}

}  // namespace

bool Profile::takes(std::int64_t images, const Sides& size) const {
  const auto within = [](std::int64_t value, const std::array<std::int64_t, 3>& limits) {
    return limits[0] <= value && value <= limits[2];
  };
  return within(images, batch) && within(size.rows, height) && within(size.columns, width);
}

std::int64_t Manifest::least_side() const { return std::max(size_multiple, smallest); }

bool Manifest::is_spectrum() const { return has_wavelengths || out_channels > kPictureChannels; }

std::vector<Profile> Manifest::sizes() const {
  if (!shape) return profiles;
  const auto only = [](std::int64_t size) { return std::array<std::int64_t, 3>{size, size, size}; };
  return {{only(shape->batch), only(shape->size.rows), only(shape->size.columns)}};
}

Manifest read_manifest(const std::string& text, const std::string& source) {
  const std::string damaged = source + ": the keygraph manifest is damaged";
  Manifest manifest;
  try {
    const Json json = parse_json(text);
    JsonFields fields(json, "$");
    const std::int64_t version = to_integer(fields.required("format_version"), "$.format_version");
    if (version > kManifestFormat) {
      throw InputError(source + ": manifest format " + std::to_string(version) +
                       " is newer than this keygraph reads (" + std::to_string(kManifestFormat) +
                       "); upgrade keygraph");
    }
    manifest = decode(json);
  } catch (const JsonError& error) {
    throw InputError(damaged + " (" + error.what() + "); export the model again");
  }
  const auto fields = impossible(manifest);
  if (fields.empty()) return manifest;
  throw InputError(damaged + " (no model has these values: " + joined(fields, ", ") + "); export the model again");
}

Manifest with_fixed_sizes(Manifest manifest, const std::vector<std::int64_t>& sizes, const std::string& source) {
  if (sizes.size() != 4) return manifest;
  const std::int64_t channels = sizes[1];
  if (channels > 0 && channels != manifest.in_channels) {
    throw InputError(source + ": its image has " + std::to_string(channels) + " channels, and its manifest says " +
                     std::to_string(manifest.in_channels) + "; export it again");
  }
  const std::pair<const char*, std::int64_t> axes[] = {{"height", manifest.margin.rows},
                                                       {"width", manifest.margin.columns}};
  // Batch, height and width without the margin; 0 for free ones.
  std::array<std::int64_t, 3> given{std::max<std::int64_t>(sizes[0], 0), 0, 0};
  for (std::size_t axis = 0; axis < 2; axis++) {
    const auto& [name, margin] = axes[axis];
    const std::int64_t size = sizes[axis + 2], side = size - margin;
    if (size <= 0) continue;
    if (!manifest.shape && (side < manifest.least_side() || side % manifest.size_multiple != 0 || size > kMostPixels)) {
      throw InputError(source + ": a tool has fixed the " + name + " of the image at " + std::to_string(size) +
                       ", but this model needs a multiple of " + std::to_string(manifest.size_multiple) +
                       (margin ? " plus " + std::to_string(margin) : "") +
                       "; fix it at one, or use the file as exported");
    }
    given[axis + 1] = side;
  }
  if (manifest.shape) {
    const std::array<std::int64_t, 3> known{manifest.shape->batch, manifest.shape->size.rows,
                                            manifest.shape->size.columns};
    for (std::size_t i = 0; i < 3; i++) {
      if (given[i] != 0 && given[i] != known[i]) {
        throw InputError(source + ": its image has other sizes than its manifest says; export it again");
      }
    }
    return manifest;
  }
  if (given == std::array<std::int64_t, 3>{0, 0, 0}) return manifest;
  const std::int64_t free = default_tile(manifest);
  if (given[0] == 1 && given[1] == 0 && given[2] == 0) {
    const std::array<std::int64_t, 3> any{manifest.least_side(), free,
                                          kMostPixels / manifest.size_multiple * manifest.size_multiple};
    manifest.profiles = {{{1, 1, 1}, any, any}};
    return manifest;
  }
  const auto or_else = [](std::int64_t value, std::int64_t other) { return value != 0 ? value : other; };
  manifest.shape = Shape{or_else(given[0], 1), {or_else(given[1], free), or_else(given[2], free)}};
  return manifest;
}

}  // namespace keygraph
