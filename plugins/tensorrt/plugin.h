// SPDX-License-Identifier: Apache-2.0
//
// IPluginV3 for the operators.
//
// Tactics are the numbers of the kernels' variants that the current device can run. Without a device (TensorRT-RTX
// builds for other GPUs) there are none, and the choice is made at run time. If a tactic does not fit the device or the
// sizes at run time, the library's automatic choice is used instead.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "keygraph/cuda.h"
#include "log.h"
#include "node.h"
#include "operators.h"

namespace keygraph::trt {

inline constexpr const char* kNamespace = "keygraph";
inline constexpr const char* kVersion = "1";  // of the operators, not of the library

// Part of the keys of timing caches: changes with everything that may change a variant's speed.
const std::string& library_identity();

template <class Operator>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
  using Desc = nvinfer1::PluginTensorDesc;
  using DynamicDesc = nvinfer1::DynamicPluginTensorDesc;
  using DimsExprs = nvinfer1::DimsExprs;

 public:
  explicit Plugin(Node node)
      : node_(std::move(node)),
        where_(std::string(Operator::kName) + " node '" + node_.name + "'"),
        attributes_(node_.attributes()),
        timing_cache_id_(attributes_ + ";" + library_identity()) {}

  // ---- IPluginV3 ----

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  nvinfer1::IPluginV3* clone() noexcept override {
    Plugin* copy = nullptr;
    guarded(where_, [&] { copy = new Plugin(*this); });
    return copy;
  }

  // ---- core ----

  const char* getPluginName() const noexcept override { return Operator::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // ---- build ----

  int32_t getNbOutputs() const noexcept override { return 1; }

  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType* inputs,
                             int32_t count) const noexcept override {
    return guarded(where_, [&] {
      expect_tensors(count, outputs);
      types[0] = Operator::role(count, count) == Role::kGraph ? nvinfer1::DataType::kINT32 : inputs[0];
    });
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t count, const DimsExprs*, int32_t, DimsExprs* shapes,
                          int32_t outputs, nvinfer1::IExprBuilder& builder) noexcept override {
    return guarded(where_, [&] {
      expect_tensors(count, outputs);
      Operator::shape(node_, inputs, count, shapes[0], builder);
    });
  }

  bool supportsFormatCombination(int32_t tensor, const DynamicDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override {
    if (!Operator::takes(inputs) || outputs != 1 || tensor < 0 || tensor > inputs) return false;
    const Desc& desc = tensors[tensor].desc;
    if (desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
    switch (Operator::role(tensor, inputs)) {
      case Role::kStorage:
        return desc.type == tensors[0].desc.type && dtype_of(desc.type);
      case Role::kMask:
        return mask_dtype_of(desc.type);
      case Role::kGraph:
        return desc.type == nvinfer1::DataType::kINT32;
      case Role::kCount:
        return desc.type == nvinfer1::DataType::kINT64;
    }
    return false;
  }

  // One per storage type, and bool.
  int32_t getFormatCombinationLimit() noexcept override { return 4; }

  // Collects the tactics for the sizes that TensorRT times, which are the profile's optimum.
  int32_t configurePlugin(const DynamicDesc* inputs, int32_t count, const DynamicDesc*,
                          int32_t outputs) noexcept override {
    tactics_.clear();
    return guarded(where_, [&] {
      expect_tensors(count, outputs);
      std::vector<Desc> optimum;
      for (int32_t i = 0; i < count; ++i) {
        const nvinfer1::Dims &dims = inputs[i].desc.dims, &opt = inputs[i].opt;
        if (opt.nbDims != dims.nbDims || std::any_of(opt.d, opt.d + opt.nbDims, [](int64_t size) { return size < 0; }))
          return;  // not known while building: the choice is made at run time
        optimum.push_back(inputs[i].desc);
        optimum.back().dims = opt;
      }
      tactics_ = variants_of(Operator::problem(node_, optimum.data(), count));
    });
  }

  int32_t getNbTactics() noexcept override { return static_cast<int32_t>(tactics_.size()); }

  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override {
    std::copy_n(tactics_.begin(), std::min<size_t>(tactics_.size(), std::max(count, 0)), tactics);
    return 0;
  }

  // TensorRT adds sizes, types and formats.
  const char* getTimingCacheID() noexcept override { return timing_cache_id_.c_str(); }
  const char* getMetadataString() noexcept override { return attributes_.c_str(); }

  size_t getWorkspaceSize(const DynamicDesc*, int32_t, const DynamicDesc*, int32_t) const noexcept override {
    return 0;
  }

  // ---- run time ----

  int32_t setTactic(int32_t tactic) noexcept override {
    tactic_ = tactic;
    return guarded(where_, [&] { choose(); });
  }

  int32_t onShapeChange(const Desc* inputs, int32_t count, const Desc*, int32_t outputs) noexcept override {
    problem_.reset();
    return guarded(where_, [&] {
      expect_tensors(count, outputs);
      problem_ = Operator::problem(node_, inputs, count);
      choose();
    });
  }

  int32_t enqueue(const Desc*, const Desc*, const void* const* inputs, void* const* outputs, void*,
                  cudaStream_t stream) noexcept override {
    return guarded(where_, [&] {
      if (!problem_)
        throw OperatorError(KEYGRAPH_BAD_SHAPE, "enqueue was called without a successful onShapeChange before it");
      keygraph_status status = Operator::enqueue(*problem_, inputs, outputs[0], variant_, stream);
      // Addresses are known only here, and the context may have changed.
      const bool misfit = status == KEYGRAPH_BAD_ALIGNMENT || status == KEYGRAPH_NO_KERNEL;
      if (misfit && variant_ != KEYGRAPH_AUTOMATIC)
        status = Operator::enqueue(*problem_, inputs, outputs[0], KEYGRAPH_AUTOMATIC, stream);
      if (status == KEYGRAPH_OK) return;
      const char* detail = keygraph_cuda_error();
      throw OperatorError(status, detail && *detail ? detail : keygraph_status_message(status));
    });
  }

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    const int32_t failed = guarded(where_, [&] { fields_ = node_.fields(); });
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    return failed ? nullptr : &collection_;
  }

 private:
  Plugin(const Plugin&) = default;  // fields_ is set before every use

  static void expect_tensors(int32_t inputs, int32_t outputs) {
    if (!Operator::takes(inputs) || outputs != 1)
      throw OperatorError(KEYGRAPH_BAD_SHAPE, std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
                                                  " outputs do not fit the operator");
  }

  // Empty if no device is current, which is an error in enqueue only.
  static std::vector<int32_t> variants_of(const typename Operator::Problem& problem) {
    std::vector<int32_t> variants(16);
    for (;;) {
      const auto capacity = static_cast<int32_t>(variants.size());
      const int32_t count = std::max(0, Operator::variants(problem, variants.data(), capacity));
      variants.resize(count);
      if (count <= capacity) return variants;
    }
  }

  // Choose the variant for the tactic and the sizes, and load its kernel. Errors are left to enqueue to report:
  // TensorRT also calls this while building, when there may be no device.
  void choose() {
    if (!problem_) return;
    const std::vector<int32_t> variants = variants_of(*problem_);
    const bool fits = std::find(variants.begin(), variants.end(), tactic_) != variants.end();
    variant_ = fits ? tactic_ : variants.empty() ? KEYGRAPH_AUTOMATIC : variants.front();
    if (variant_ != KEYGRAPH_AUTOMATIC) keygraph_cuda_prepare(variant_);
  }

  Node node_;
  std::string where_;
  std::string attributes_;
  std::string timing_cache_id_;

  std::vector<int32_t> tactics_;

  int32_t tactic_ = 0;  // 0: TensorRT's default, which is our automatic choice
  std::optional<typename Operator::Problem> problem_;
  keygraph_variant variant_ = KEYGRAPH_AUTOMATIC;

  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace keygraph::trt
