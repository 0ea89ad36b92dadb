// SPDX-License-Identifier: Apache-2.0
//
// An image and the model's extra inputs, checked against the manifest, read tile by tile as the model takes them, and
// the way back from its results to samples: as runtime/preprocess/.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "blend.hpp"
#include "keygraph/runtime.hpp"
#include "manifest.hpp"

namespace keygraph {

// How an image's channels map to a model's.
enum class Mapping { kStraight, kGrayThroughColour, kColourThroughGray };

// y = (max(x, least) - offset) / divisor * gain, then scaled to the manifest's value_range.
struct Normalisation {
  bool clip = false;  // Whether negative samples become 0.
  double offset = 0;
  double divisor = 1;
  double gain = 1;
  Range range;

  void apply(float* values, std::size_t count) const;
};

// An input of the model: what was given, and the rows and columns by which it is larger than the result.
struct Source {
  const Image* image = nullptr;
  Sides margin;
  float divisor = 1;  // Of an extra input that was saved as a picture.
};

class Request {
 public:
  // Throws InputError where the image or an input does not fit the model. `image` and `inputs` must live as long.
  Request(const Manifest& manifest, const Image& image, const std::map<std::string, Image>& inputs);
  Request(const Request&) = delete;  // It refers to itself.
  Request& operator=(const Request&) = delete;

  // Size of the result, divided by the scale.
  const Sides& size() const { return size_; }
  // Tensors that the model runs for one tile.
  std::int64_t planes() const { return mapping_ == Mapping::kColourThroughGray ? 3 : 1; }
  // Channels of the result.
  std::int64_t channels() const;
  const std::vector<std::string>& notices() const { return notices_; }

  // Append one tile of the padded result to the values of each input: float[planes][C][rows + margin][columns + margin].
  void read(std::int64_t top, std::int64_t left, const Sides& tile, std::vector<std::vector<float>>& inputs) const;
  // Turn float[planes][out_channels][pixels] into float[channels][pixels], in place.
  void join(float* values, std::size_t pixels) const;

  // An empty result, and the conversion of a band into it.
  Image empty_result() const;
  void write(const Band& band, Image& result) const;

 private:
  const Manifest& manifest_;
  Image joined_;  // Several views side by side.
  std::vector<Source> sources_;
  Sides size_;
  Mapping mapping_ = Mapping::kStraight;
  Normalisation normalise_;
  std::vector<std::string> notices_;
};

}  // namespace keygraph
