// SPDX-License-Identifier: Apache-2.0
//
// The manifest of an exported file: what manifest.py defines, as far as restoring an image needs it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace keygraph {

constexpr std::int64_t kManifestFormat = 6;

// The key in the file's metadata, and the names of the graph's tensors.
constexpr const char* kMetadataKey = "keygraph";
constexpr const char* kImageInput = "image";
constexpr const char* kKInput = "k";
constexpr const char* kImageOutput = "restored";

// No side of an image is larger.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 30;

// Rows and columns.
struct Sides {
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  bool operator==(const Sides& other) const { return rows == other.rows && columns == other.columns; }
};

struct Range {
  double low = 0;
  double high = 1;

  bool is_unit() const { return low == 0 && high == 1; }
};

struct Neighbours {
  std::int64_t standard = 0;  // `default`
  std::int64_t maximum = 0;
  std::vector<std::int64_t> trained;
  bool runtime = true;
};

struct Tiling {
  std::int64_t tile = 0;
  std::int64_t overlap = 0;
  double psnr = 0;
};

struct Statistics {
  std::optional<double> memory;  // Bytes per pixel of a run.
  std::vector<Tiling> tilings;
};

struct ExtraInput {
  std::string name;
  std::int64_t channels = 0;
  Sides margin;
};

struct Profile {
  std::array<std::int64_t, 3> batch;  // Minimum, optimum, maximum.
  std::array<std::int64_t, 3> height;
  std::array<std::int64_t, 3> width;

  bool takes(std::int64_t images, const Sides& size) const;
};

struct Shape {
  std::int64_t batch = 0;
  Sides size;
};

enum class Normalise { kType, kRange, kPeak, kNone };

struct Manifest {
  std::string architecture;
  std::int64_t scale = 1;
  std::int64_t in_channels = 0;
  std::int64_t out_channels = 0;
  Range value_range;
  std::int64_t size_multiple = 1;
  std::int64_t smallest = 1;
  bool global_statistics = false;
  std::optional<Neighbours> neighbours;
  std::vector<std::string> views;
  Normalise normalisation = Normalise::kType;
  double gain = 1;
  Sides margin;
  std::vector<ExtraInput> extra_inputs;
  std::optional<Range> clamp;
  bool has_wavelengths = false;
  std::optional<Shape> shape;
  std::optional<Tiling> tiling;
  std::optional<Statistics> statistics;
  std::vector<Profile> profiles;
  // Whether attentions of a network of unknown architecture run as keygraph's operators.
  bool fused_attentions = false;

  std::int64_t least_side() const;
  // Whether results are spectra: they have wavelengths, or more channels than a picture.
  bool is_spectrum() const;
  // Whether keygraph's operators are in the file.
  bool has_operators() const { return neighbours.has_value() || fused_attentions; }
  // The sizes that the file takes; a fixed shape is one profile.
  std::vector<Profile> sizes() const;
};

// Decode a manifest of this format or an older one; `source` is the file's name for the InputError.
Manifest read_manifest(const std::string& text, const std::string& source);

// Return the manifest with the sizes that the file itself takes, where a tool fixed some after export. `sizes` are
// [B, C, H, W] of the image input, dynamic ones 0 or less. Throws InputError where the model cannot run with them.
Manifest with_fixed_sizes(Manifest manifest, const std::vector<std::int64_t>& sizes, const std::string& source);

}  // namespace keygraph
