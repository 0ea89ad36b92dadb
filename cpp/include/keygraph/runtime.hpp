// SPDX-License-Identifier: Apache-2.0
//
// Restore images with a model that keygraph exported, without Python: reads the file's manifest, pads, tiles, runs the
// tiles in ONNX Runtime on the CPU, and blends them. The results are those of `keygraph.load(model)` in Python.
//
//     keygraph::Restorer restorer("kgt.onnx");
//     keygraph::Image restored = restorer.restore(image).image;
//
// docs/how-to/use-from-cpp.md shows how to compile a program with it.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#if defined(__GNUC__)
#define KEYGRAPH_API __attribute__((visibility("default")))
#else
#define KEYGRAPH_API
#endif

namespace keygraph {

// What cannot be done, in one line that says what to do about it.
class KEYGRAPH_API Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message);
  Error(const Error&) noexcept = default;
  ~Error() override;
};

// The input cannot be used: the file, an option, the image, or the installation.
class KEYGRAPH_API InputError : public Error {
 public:
  explicit InputError(const std::string& message);
  InputError(const InputError&) noexcept = default;
  ~InputError() override;
};

// Samples of an image: 0 to 255, 0 to 65535, or 0 to 1. A model that normalises images by their own range, or not at
// all (the manifest's `normalisation`), takes any finite numbers.
using Samples = std::variant<std::vector<std::uint8_t>, std::vector<std::uint16_t>, std::vector<float>>;

// An image, row by row from the top, with the channels of a pixel side by side.
struct Image {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 0;
  Samples samples;  // height * width * channels
};

struct ModelOptions {
  // Library of keygraph's operators: "auto" for libkeygraph_ort.so beside this library, or a path. nullopt chooses the
  // slower plain functions in the file, which also stand in, with a notice, where "auto" finds nothing.
  std::optional<std::string> operators = "auto";
  // ONNX Runtime's library, version 1.20 or newer. Empty: the one that the program is linked to; else the first of
  // libonnxruntime.so.1 on the loader's path, and that of the Python package in the environment of this library.
  std::string onnxruntime;
  // Threads per operator, from 1 to 1024; 0 for ONNX Runtime's default, one per core.
  int threads = 0;
};

// As a tile: the whole image at once.
constexpr std::int64_t kWholeImage = std::numeric_limits<std::int64_t>::max();

struct RestoreOptions {
  // Neighbours of each node, from 1 to the nodes of a window; nullopt for the model's default.
  std::optional<std::int64_t> k;
  // Side of the tiles in pixels, a multiple of the model's size_multiple, or kWholeImage. nullopt chooses, and takes
  // smaller tiles when memory runs out.
  std::optional<std::int64_t> tile;
  // Least overlap of neighbouring tiles in pixels, a multiple of size_multiple, at most half a tile; nullopt for the
  // calibrated one.
  std::optional<std::int64_t> overlap;
  // Tiles that run together, at least 1; nullopt chooses. Halved when memory runs out.
  std::optional<std::int64_t> batch;
  // The model's other inputs by name: a mask, the other views of a picture.
  std::map<std::string, Image> inputs;
  // Called with (tiles done, tiles in all). What it throws ends the restoration, and leaves `restore`.
  std::function<void(std::int64_t, std::int64_t)> progress;
};

// A restored image, and how it was computed.
struct Restored {
  // Of the given type, but float for spectra. Integers are rounded to nearest, ties to even.
  Image image;
  // Neighbours of each node; nullopt for a model without a key graph.
  std::optional<std::int64_t> k;
  // Number of tiles, 1 for a whole image; their size and least overlap in pixels; how many ran together.
  std::int64_t tiles = 1;
  std::int64_t tile_height = 0;
  std::int64_t tile_width = 0;
  std::int64_t overlap = 0;
  std::int64_t batch = 1;
  // Whether the image was padded by reflection to a size that the model takes, and cropped.
  bool padded = false;
  // Lines for the user about what was done differently than asked, or what the result does not say.
  std::vector<std::string> notices;
};

// A model that restores images, for any number of threads at a time.
//
// Sets the environment variable ORT_DISABLE_TELEMETRY to 1, unless it is set, before it loads ONNX Runtime.
class KEYGRAPH_API Restorer {
 public:
  // Load an exported .onnx file. Throws InputError where the file, the operators or ONNX Runtime cannot be used.
  explicit Restorer(const std::string& model, const ModelOptions& options = {});
  ~Restorer();
  Restorer(Restorer&& other) noexcept;
  Restorer& operator=(Restorer&& other) noexcept;

  // Restore one image of the model's channels, without alpha. A colour model also takes gray images, and a gray model
  // colour images. Throws InputError for what was given, Error where the model fails or gives NaN.
  Restored restore(const Image& image, const RestoreOptions& options = {}) const;

  // The manifest as JSON, as the file has it.
  const std::string& manifest() const;
  // One line: ONNX Runtime's version, the device, the implementation of the operators.
  const std::string& description() const;
  // Lines for the user about how the model was loaded.
  const std::vector<std::string>& notices() const;

 private:
  struct Model;
  std::unique_ptr<const Model> model_;
};

}  // namespace keygraph
