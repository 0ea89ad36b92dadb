// SPDX-License-Identifier: Apache-2.0
//
// Join the parts, as runtime/restorer.py, runtime/tiling/run.py and runtime/tiling/whole_image.py.
#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "errors.hpp"
#include "keygraph/runtime.hpp"
#include "memory.hpp"
#include "request.hpp"
#include "session.hpp"
#include "tile_size.hpp"

namespace keygraph {
namespace {

// Those of whole_image.py: the share of the free memory that a run may use, the share of an estimate that must be free
// for a tile that the user gave, and the bytes per pixel where the file does not say.
constexpr double kShare = 0.6;
constexpr double kCertain = 0.75;
constexpr double kAssumedOperators = 8 << 10;
constexpr double kAssumed = 28 << 10;
constexpr double kAssumedGlobal = 56 << 10;

std::optional<double> measured(const Manifest& manifest) {
  return manifest.statistics ? manifest.statistics->memory : std::nullopt;
}

// Return how many pixels fit into memory: the system kills a process that takes too much.
PixelLimits pixel_limits(const Session& session) {
  const Manifest& manifest = session.manifest();
  PixelLimits limits;
  const auto free = available_memory();
  if (!free) return limits;
  const double assumed = session.runs_library() ? kAssumedOperators : kAssumed;
  const double per_pixel = measured(manifest).value_or(manifest.global_statistics ? kAssumedGlobal : assumed);
  limits.of_a_run = std::floor(*free / (per_pixel / kShare));
  // Tiles change the result, so images are restored whole while they fit.
  if (manifest.global_statistics && measured(manifest)) limits.whole = *limits.of_a_run;
  return limits;
}

double pixels_at_once(const TileChoice& choice) {
  return static_cast<double>(choice.batch) * static_cast<double>(choice.tile.rows) *
         static_cast<double>(choice.tile.columns);
}

// Check that a tile that the user gave fits into memory, as far as this is known.
void check_fits(const Manifest& manifest, const TileChoice& choice) {
  if (choice.automatic || !measured(manifest)) return;
  const double need = *measured(manifest) * pixels_at_once(choice);
  const auto free = available_memory();
  if (free && kCertain * need > *free) {
    throw InputError(by({choice.batch, choice.tile.rows, choice.tile.columns}) + " pixels at once need about " +
                     mebibytes(need) + " of memory, and " + mebibytes(*free) +
                     " are free; leave tile and batch out, or choose smaller ones");
  }
}

// Check the k that the user gave, which is never clamped; return what the session takes.
std::optional<std::int64_t> resolve_k(const Manifest& manifest, const std::optional<std::int64_t>& k) {
  const auto& neighbours = manifest.neighbours;
  if (!neighbours) {
    if (!k) return std::nullopt;
    throw InputError("this model (" + manifest.architecture + ") has no key graph and takes no k; leave k out");
  }
  if (k && (*k < 1 || *k > neighbours->maximum)) {
    throw InputError("k is " + std::to_string(*k) + "; it must be a whole number from 1 to " +
                     std::to_string(neighbours->maximum) + ", " +
                     (manifest.profiles.empty() ? "the nodes of a window" : "the most that this model takes"));
  }
  if (neighbours->runtime) return k.value_or(neighbours->standard);
  if (k && *k != neighbours->standard) {
    throw InputError("k is fixed at " + std::to_string(neighbours->standard) + " in this file, so it cannot be " +
                     std::to_string(*k) +
                     "; leave k out, or export the checkpoint again with: export-model CHECKPOINT --k runtime");
  }
  return std::nullopt;
}

void add_k_notice(const Manifest& manifest, const std::optional<std::int64_t>& k, std::vector<std::string>& notices) {
  if (!k || manifest.neighbours->trained.empty()) return;
  const auto& trained = manifest.neighbours->trained;
  const auto [low, high] = std::minmax_element(trained.begin(), trained.end());
  if (*low <= *k && *k <= *high) return;
  const std::string known = std::to_string(*low) + (*low < *high ? " to " + std::to_string(*high) : "");
  notices.push_back("k is " + std::to_string(*k) + ", but the model was trained with " + known +
                    ": the quality is unknown there");
}

void add_tile_notices(const Manifest& manifest, const TileChoice& choice, std::vector<std::string>& notices) {
  if (choice.plan.tiles() == 1) return;
  if (manifest.global_statistics) {
    notices.emplace_back("tiles are not exact: the C++ runtime blends them; keygraph in Python has exact ones");
    std::string cost;
    if (manifest.statistics && !manifest.statistics->tilings.empty()) {
      const std::int64_t side = std::max(choice.tile.rows, choice.tile.columns);
      const auto& tilings = manifest.statistics->tilings;
      const auto nearest = std::min_element(tilings.begin(), tilings.end(), [&](const Tiling& a, const Tiling& b) {
        return std::abs(a.tile - side) < std::abs(b.tile - side);
      });
      cost = " (tiles of " + std::to_string(nearest->tile) + ": " + general(std::nearbyint(nearest->psnr)) +
             " dB, as measured at export)";
    }
    notices.push_back("this model takes statistics over the whole image: tiles change its result" + cost);
  }
  if (choice.overlap == 0) notices.emplace_back("tiles do not overlap: seams are possible");
}

// Return a choice that needs less memory, and add the notice about it.
TileChoice smaller_choice(const Manifest& manifest, const Sides& size, const TileChoice& choice,
                          const std::string& said, std::vector<std::string>& notices) {
  const auto less = smaller(manifest, size, choice);
  const std::string tile = by({choice.tile.rows, choice.tile.columns});
  if (!less) {
    throw InputError(
        said + " with tiles of " + tile + " one by one; " +
        (choice.automatic ? "free memory, or use a machine with more" : "choose a smaller tile, or leave it out"));
  }
  if (less->batch < choice.batch) {
    notices.push_back(said + " with " + std::to_string(choice.batch) + " tiles of " + tile +
                      " together: went on with " + std::to_string(less->batch));
  } else {
    notices.push_back(said + " with tiles of " + tile + ": went on with tiles of " +
                      by({less->tile.rows, less->tile.columns}));
  }
  return *less;
}

// The restored tiles of a request, computed in batches when they are asked for in order.
class Tiles {
 public:
  Tiles(const Session& session, const Request& request, const TileChoice& choice, const std::optional<std::int64_t>& k,
        const std::function<void(std::int64_t, std::int64_t)>& progress)
      : session_(session), request_(request), choice_(choice), k_(k), progress_(progress) {
    const std::int64_t scale = session.manifest().scale;
    tile_ = {choice.plan.rows.tile * scale, choice.plan.columns.tile * scale};
    // A batch is limited in planes, and a tile may have several.
    together_ = std::max<std::int64_t>(1, choice.batch / request.planes());
  }

  // Return float[channels][height][width], valid until the next call.
  const float* operator()(std::int64_t index) {
    if (index >= end_) compute();
    const std::int64_t planes = request_.planes() * session_.manifest().out_channels;
    return results_.data() + (index - begin_) * planes * tile_.rows * tile_.columns;
  }

 private:
  void compute() {
    const Plan& plan = choice_.plan;
    const auto columns = static_cast<std::int64_t>(plan.columns.origins.size());
    begin_ = end_;
    end_ = std::min(begin_ + together_, plan.tiles());
    const auto corner = [&](std::int64_t index) {
      return Sides{plan.rows.origins[static_cast<std::size_t>(index / columns)],
                   plan.columns.origins[static_cast<std::size_t>(index % columns)]};
    };
    std::vector<std::vector<float>> inputs(1 + session_.manifest().extra_inputs.size());
    for (std::int64_t index = begin_; index < end_; index++) {
      const auto [top, left] = corner(index);
      request_.read(top, left, {plan.rows.tile, plan.columns.tile}, inputs);
    }
    results_.clear();
    const std::int64_t count = (end_ - begin_) * request_.planes(), most = choice_.max_batch.value_or(count);
    for (std::int64_t start = 0; start < count; start += most) run(inputs, start, std::min(most, count - start), count);
    if (progress_) progress_(end_, plan.tiles());
    const std::size_t size = results_.size() / static_cast<std::size_t>(end_ - begin_);
    for (std::int64_t index = begin_; index < end_; index++) {
      float* values = results_.data() + static_cast<std::size_t>(index - begin_) * size;
      if (!std::all_of(values, values + size, [](float value) { return std::isfinite(value); })) {
        const auto [top, left] = corner(index);
        throw Error("the model gave NaN or infinity in the tile at row " + std::to_string(top) + ", column " +
                    std::to_string(left) +
                    "; look for the cause with: keygraph compare MODEL CHECKPOINT --inputs IMAGE");
      }
      request_.join(values, static_cast<std::size_t>(tile_.rows * tile_.columns));
    }
  }

  // Run images `start` to `start + size` of `count`; a file with a fixed batch gets the last image several times.
  void run(const std::vector<std::vector<float>>& inputs, std::int64_t start, std::int64_t size, std::int64_t count) {
    const Manifest& manifest = session_.manifest();
    const std::int64_t batch = manifest.shape ? *choice_.max_batch : size;
    std::vector<Tensor> tensors;
    for (std::size_t number = 0; number < inputs.size(); number++) {
      const bool image = number == 0;
      const Sides& margin = image ? manifest.margin : manifest.extra_inputs[number - 1].margin;
      const std::int64_t channels = image ? manifest.in_channels : manifest.extra_inputs[number - 1].channels;
      const auto of_one = static_cast<std::ptrdiff_t>(inputs[number].size()) / count;
      const auto begin = inputs[number].begin();
      std::vector<float> values(begin + start * of_one, begin + (start + size) * of_one);
      for (std::int64_t i = size; i < batch; i++) {
        values.insert(values.end(), begin + (start + size - 1) * of_one, begin + (start + size) * of_one);
      }
      tensors.push_back(
          {{batch, channels, choice_.plan.rows.tile + margin.rows, choice_.plan.columns.tile + margin.columns},
           std::move(values)});
    }
    const Tensor restored = session_.run(tensors, k_);
    const std::vector<std::int64_t> expected{batch, manifest.out_channels, tile_.rows, tile_.columns};
    if (restored.shape != expected) {
      throw Error("the model gave a tensor of shape " + by(restored.shape) + " where its manifest promises " +
                  by(expected) + "; export it again");
    }
    const auto used = static_cast<std::ptrdiff_t>(restored.values.size()) / batch * size;
    results_.insert(results_.end(), restored.values.begin(), restored.values.begin() + used);
  }

  const Session& session_;
  const Request& request_;
  const TileChoice& choice_;
  const std::optional<std::int64_t>& k_;
  const std::function<void(std::int64_t, std::int64_t)>& progress_;
  Sides tile_;
  std::int64_t together_ = 1;
  std::int64_t begin_ = 0;
  std::int64_t end_ = 0;
  std::vector<float> results_;
};

}  // namespace

struct Restorer::Model {
  Session session;
};

Restorer::Restorer(const std::string& model, const ModelOptions& options)
    : model_(new Model{Session(model, options)}) {}
Restorer::~Restorer() = default;
Restorer::Restorer(Restorer&& other) noexcept = default;
Restorer& Restorer::operator=(Restorer&& other) noexcept = default;

const std::string& Restorer::manifest() const { return model_->session.manifest_text(); }
const std::string& Restorer::description() const { return model_->session.description(); }
const std::vector<std::string>& Restorer::notices() const { return model_->session.notices(); }

Restored Restorer::restore(const Image& image, const RestoreOptions& options) const {
  const Session& session = model_->session;
  const Manifest& manifest = session.manifest();
  const auto k = resolve_k(manifest, options.k);
  try {
    const Request request(manifest, image, options.inputs);
    const Sides& size = request.size();
    Restored restored;
    restored.image = request.empty_result();
    restored.notices = request.notices();
    add_k_notice(manifest, k, restored.notices);
    TileChoice choice = choose_tiles(manifest, size, options, pixel_limits(session));
    check_fits(manifest, choice);
    for (bool done = false; !done;) {
      std::string said;
      try {
        Tiles tiles(session, request, choice, k, options.progress);
        blend(choice.plan, request.channels(), manifest.scale, std::ref(tiles),
              [&](const Band& band) { request.write(band, restored.image); });
        done = true;
      } catch (const SessionMemoryError& error) {
        said = error.what();
      } catch (const std::bad_alloc&) {
        said = "out of memory";
      }
      if (!done) choice = smaller_choice(manifest, size, choice, said, restored.notices);
    }
    add_tile_notices(manifest, choice, restored.notices);
    restored.k = k;
    if (!k && manifest.neighbours) restored.k = manifest.neighbours->standard;
    restored.tiles = choice.plan.tiles();
    restored.tile_height = choice.plan.rows.tile;
    restored.tile_width = choice.plan.columns.tile;
    restored.overlap = restored.tiles > 1 ? choice.overlap : 0;
    restored.batch = choice.batch;
    restored.padded = choice.plan.rows.length != size.rows || choice.plan.columns.length != size.columns;
    return restored;
  } catch (const std::bad_alloc&) {
    throw Error("out of memory for an image of " + by({image.height, image.width, image.channels}) +
                "; free memory, or restore a part of the image");
  }
}

}  // namespace keygraph
