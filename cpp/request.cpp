// SPDX-License-Identifier: Apache-2.0
#include "request.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "errors.hpp"
#include "padding.hpp"

namespace keygraph {
namespace {

// Largest magnitude accepted in floating-point images, whose samples go from 0 to 1.
constexpr double kFloatLimit = 8;

template <class T>
constexpr double white_level() {
  return std::is_integral_v<T> ? static_cast<double>(std::numeric_limits<T>::max()) : 1.0;
}

std::string words(std::int64_t height, std::int64_t width, std::int64_t channels) {
  return by({height, width}) + " (height x width) with " + counted(channels, "channel");
}

std::string words(const Image& image) { return words(image.height, image.width, image.channels); }

bool is_float(const Image& image) { return std::holds_alternative<std::vector<float>>(image.samples); }

// Check that there are as many samples as the sizes say.
void require_complete(const Image& image, const std::string& name) {
  const std::size_t count = std::visit([](const auto& samples) { return samples.size(); }, image.samples);
  const std::string shape = by({image.height, image.width, image.channels});
  if (std::min({image.height, image.width, image.channels}) < 1) {
    throw InputError("the " + name + " is empty: its shape is " + shape);
  }
  if (std::max({image.height, image.width, image.channels}) > kMostPixels) {
    throw InputError("the " + name + " has shape " + shape + "; a side can be at most " + std::to_string(kMostPixels));
  }
  if (elements({image.height, image.width, image.channels}) != count) {
    throw InputError("the " + name + " has shape " + shape + ", but " + std::to_string(count) + " samples");
  }
}

// Return the smallest and the largest sample, or throw InputError for NaN and infinity.
Range extent(const Image& image, const std::string& name) {
  return std::visit(
      [&](const auto& samples) {
        using Sample = typename std::decay_t<decltype(samples)>::value_type;
        Range found{static_cast<double>(samples[0]), static_cast<double>(samples[0])};
        bool finite = true;
        for (const Sample sample : samples) {
          const auto value = static_cast<double>(sample);
          if constexpr (std::is_floating_point_v<Sample>) finite = finite && std::isfinite(sample);
          found.low = std::min(found.low, value);
          found.high = std::max(found.high, value);
        }
        if (!finite) throw InputError("the " + name + " holds NaN or infinity; replace those values");
        return found;
      },
      image.samples);
}

std::vector<std::string> input_names(const Manifest& manifest) {
  std::vector<std::string> names;
  if (!manifest.views.empty()) names.assign(manifest.views.begin() + 1, manifest.views.end());
  for (const ExtraInput& extra : manifest.extra_inputs) names.push_back(extra.name);
  return names;
}

// Check that the inputs given beside the image are those that the model takes.
void check_names(const Manifest& manifest, const std::map<std::string, Image>& inputs) {
  const std::vector<std::string> wanted = input_names(manifest);
  std::vector<std::string> missing;
  for (const std::string& name : wanted) {
    if (inputs.count(name) == 0) missing.push_back(name);
  }
  const std::string model = "this model (" + manifest.architecture + ")";
  if (!missing.empty()) {
    throw InputError(model + " takes " + joined(wanted, " and ") + " beside the image, and " +
                     joined(missing, " and ") + (missing.size() == 1 ? " is" : " are") +
                     " missing; give it in RestoreOptions::inputs");
  }
  for (const auto& [name, image] : inputs) {
    if (std::find(wanted.begin(), wanted.end(), name) != wanted.end()) continue;
    throw InputError(model + " has no input " + name + "; it takes " +
                     (wanted.empty() ? "nothing" : joined(wanted, " and ")) + " beside the image" +
                     (manifest.views.empty() ? "" : ", which is the " + manifest.views[0] + " view itself"));
  }
}

// Return how the image's channels map to the model's, and add the notice about it.
Mapping adapt(const Manifest& manifest, std::int64_t channels, std::vector<std::string>& notices) {
  const auto taken = manifest.in_channels, given = manifest.out_channels;
  const auto views = std::max<std::int64_t>(1, static_cast<std::int64_t>(manifest.views.size()));
  const bool picture = views == 1 && manifest.extra_inputs.empty() && !manifest.is_spectrum();
  if (channels * views == taken) return Mapping::kStraight;
  if (picture && channels == 1 && taken == 3 && given == 3) {
    notices.emplace_back("gray image, colour model: restored as three equal channels, then averaged");
    return Mapping::kGrayThroughColour;
  }
  if (picture && channels == 3 && taken == 1 && given == 1) {
    notices.emplace_back("colour image, gray model: each channel restored separately");
    return Mapping::kColourThroughGray;
  }
  std::string takes = counted(taken / views, "channel");
  if (views > 1) takes += " of each of " + joined(manifest.views, " and ");
  throw InputError("the image has " + counted(channels, "channel") + " (alpha apart), but the model takes " + takes);
}

Sides result_size(const Manifest& manifest, const Image& image) {
  const auto [down, across] = manifest.margin;
  if (image.height <= down || image.width <= across) {
    throw InputError("the image is " + by({image.height, image.width}) +
                     " (height x width), but this model's images are " + by({down, across}) +
                     " larger than their results; give at least " + by({down + 1, across + 1}));
  }
  return {image.height - down, image.width - across};
}

Normalisation normalisation(const Manifest& manifest, const Image& image, std::vector<std::string>& notices) {
  Normalisation found;
  found.range = manifest.value_range;
  if (manifest.normalisation == Normalise::kType) {
    found.divisor = std::visit(
        [](const auto& samples) { return white_level<typename std::decay_t<decltype(samples)>::value_type>(); },
        image.samples);
    if (!is_float(image)) return found;
    const Range limits = extent(image, "image");
    if (std::max(-limits.low, limits.high) > kFloatLimit) {
      throw InputError("the image holds values from " + general(limits.low) + " to " + general(limits.high) +
                       ", but floating-point images go from 0 to 1; divide it by its white level");
    }
    return found;
  }
  const Range limits = extent(image, "image");
  if (manifest.normalisation == Normalise::kRange) {
    found.offset = limits.low;
    if (limits.high > limits.low) {
      found.divisor = limits.high - limits.low;
    } else {
      notices.push_back("every sample of the image is " + general(limits.low) +
                        ": it has no range, so the model gets black");
    }
  } else if (manifest.normalisation == Normalise::kPeak) {
    found.clip = true;
    found.gain = manifest.gain;
    if (limits.high > 0) {
      found.divisor = limits.high;
    } else {
      notices.emplace_back("no sample of the image is above 0: the model gets black");
    }
  }
  return found;
}

// Concatenate the views along the channels.
Image with_views(const Manifest& manifest, const Image& image, const std::map<std::string, Image>& inputs) {
  std::vector<const Image*> views{&image};
  for (std::size_t i = 1; i < manifest.views.size(); i++) {
    const Image& view = inputs.at(manifest.views[i]);
    const std::string name = "the " + manifest.views[i] + " view is ";
    if (view.height != image.height || view.width != image.width || view.channels != image.channels) {
      throw InputError(name + words(view) + ", but the image (" + manifest.views[0] + ") is " + words(image) +
                       "; give views of one size");
    }
    if (view.samples.index() != image.samples.index()) {
      throw InputError(name + "of another type than the image; give both in one type");
    }
    views.push_back(&view);
  }
  const auto count = static_cast<std::int64_t>(views.size());
  Image joined{image.height, image.width, image.channels * count, {}};
  joined.samples = std::visit(
      [&](const auto& first) {
        using Values = std::decay_t<decltype(first)>;
        Values all(first.size() * views.size());
        for (std::size_t v = 0; v < views.size(); v++) {
          const Values& from = std::get<Values>(views[v]->samples);
          const auto channels = static_cast<std::size_t>(image.channels);
          for (std::size_t i = 0; i < from.size(); i++) {
            all[(i / channels * views.size() + v) * channels + i % channels] = from[i];
          }
        }
        return Samples(std::move(all));
      },
      image.samples);
  return joined;
}

}  // namespace

void Normalisation::apply(float* values, std::size_t count) const {
  const auto offset_value = static_cast<float>(offset), divisor_value = static_cast<float>(divisor);
  const auto gain_value = static_cast<float>(gain), low = static_cast<float>(range.low);
  const auto span = static_cast<float>(range.high - range.low);
  for (std::size_t i = 0; i < count; i++) {
    float value = values[i];
    if (clip) value = std::max(value, 0.0f);
    if (offset != 0) value -= offset_value;
    if (divisor != 1) value /= divisor_value;
    if (gain != 1) value *= gain_value;
    if (!range.is_unit()) value = value * span + low;
    values[i] = value;
  }
}

Request::Request(const Manifest& manifest, const Image& image, const std::map<std::string, Image>& inputs)
    : manifest_(manifest) {
  check_names(manifest, inputs);
  require_complete(image, "image");
  for (const auto& [name, input] : inputs) require_complete(input, name);
  const bool several = manifest.views.size() > 1;
  mapping_ = adapt(manifest, image.channels, notices_);
  size_ = result_size(manifest, image);
  if (several) joined_ = with_views(manifest, image, inputs);
  const Image& whole = several ? joined_ : image;
  normalise_ = normalisation(manifest, whole, notices_);
  sources_.push_back({&whole, manifest.margin, 1});
  for (const ExtraInput& extra : manifest.extra_inputs) {
    const Image& given = inputs.at(extra.name);
    const std::int64_t height = size_.rows + extra.margin.rows, width = size_.columns + extra.margin.columns;
    if (given.height != height || given.width != width || given.channels != extra.channels) {
      throw InputError("the " + extra.name + " is " + words(given) + ", but for an image of " + words(image) +
                       " it must be " + words(height, width, extra.channels));
    }
    const double high = extent(given, extra.name).high;
    Source source{&given, extra.margin, 1};
    if (!is_float(given) && high > 1) {
      const double white = std::holds_alternative<std::vector<std::uint8_t>>(given.samples) ? 255 : 65535;
      source.divisor = static_cast<float>(white);
      notices_.push_back(extra.name + ": integers up to " + general(high) + " divided by " + general(white));
    }
    sources_.push_back(source);
  }
}

std::int64_t Request::channels() const {
  if (mapping_ == Mapping::kStraight) return manifest_.out_channels;
  return mapping_ == Mapping::kGrayThroughColour ? 1 : 3;
}

void Request::read(std::int64_t top, std::int64_t left, const Sides& tile,
                   std::vector<std::vector<float>>& inputs) const {
  for (std::size_t number = 0; number < sources_.size(); number++) {
    const Source& source = sources_[number];
    const Image& image = *source.image;
    const std::int64_t height = tile.rows + source.margin.rows, width = tile.columns + source.margin.columns;
    std::vector<std::int64_t> columns;
    for (std::int64_t x = 0; x < width; x++) columns.push_back(reflected(left + x, image.width) * image.channels);
    const std::size_t before = inputs[number].size();
    const std::size_t count = elements({image.channels, height, width});
    const bool repeated = number == 0 && mapping_ == Mapping::kGrayThroughColour;
    inputs[number].resize(before + (repeated ? 3 : 1) * count);
    float* values = inputs[number].data() + before;
    std::visit(
        [&](const auto& samples) {
          for (std::int64_t channel = 0; channel < image.channels; channel++) {
            for (std::int64_t y = 0; y < height; y++) {
              const auto* row = samples.data() + reflected(top + y, image.height) * image.width * image.channels;
              float* out = values + (channel * height + y) * width;
              for (std::int64_t x = 0; x < width; x++) {
                out[x] = static_cast<float>(row[columns[static_cast<std::size_t>(x)] + channel]);
              }
            }
          }
        },
        image.samples);
    if (number == 0) {
      normalise_.apply(values, count);
    } else if (source.divisor != 1) {
      for (std::size_t i = 0; i < count; i++) values[i] /= source.divisor;
    }
    if (repeated) {
      std::copy(values, values + count, values + count);
      std::copy(values, values + count, values + 2 * count);
    }
  }
}

void Request::join(float* values, std::size_t pixels) const {
  if (mapping_ != Mapping::kGrayThroughColour) return;  // The planes are the channels.
  for (std::size_t i = 0; i < pixels; i++) values[i] = (values[i] + values[pixels + i] + values[2 * pixels + i]) / 3;
}

Image Request::empty_result() const {
  Image result{size_.rows * manifest_.scale, size_.columns * manifest_.scale, channels(), {}};
  const std::size_t count = elements({result.height, result.width, result.channels});
  if (manifest_.is_spectrum()) {
    result.samples = std::vector<float>(count);
  } else {
    result.samples = std::visit([&](const auto& samples) { return Samples(std::decay_t<decltype(samples)>(count)); },
                                sources_[0].image->samples);
  }
  return result;
}

void Request::write(const Band& band, Image& result) const {
  const auto& [clamp, range] = std::tie(manifest_.clamp, manifest_.value_range);
  const auto low = static_cast<float>(range.low), span = static_cast<float>(range.high - range.low);
  const std::int64_t rows = std::min(band.rows, result.height - band.top);
  std::visit(
      [&](auto& samples) {
        using Sample = typename std::decay_t<decltype(samples)>::value_type;
        constexpr auto white = static_cast<float>(white_level<Sample>());
        auto* out = samples.data() + band.top * result.width * result.channels;
        for (std::int64_t y = 0; y < rows; y++) {
          for (std::int64_t x = 0; x < result.width; x++) {
            for (std::int64_t channel = 0; channel < result.channels; channel++) {
              float value = band.values[(channel * band.height + y) * band.width + x];
              if (clamp) value = std::clamp(value, static_cast<float>(clamp->low), static_cast<float>(clamp->high));
              if (!range.is_unit()) value = (value - low) / span;
              if constexpr (std::is_integral_v<Sample>) value = std::nearbyint(std::clamp(value * white, 0.0f, white));
              *out++ = static_cast<Sample>(value);
            }
          }
        }
      },
      result.samples);
}

}  // namespace keygraph
