// SPDX-License-Identifier: Apache-2.0
//
// The entry points of libkeygraph_trt.so: the creators, and the setter of TensorRT's logger finder.
#include <NvInferRuntime.h>

#include <algorithm>
#include <string>
#include <vector>

#include "plugin.h"

static_assert(NV_TENSORRT_MAJOR >= 10, "IPluginV3 needs TensorRT 10.0 or newer");

namespace keygraph::trt {

const std::string& library_identity() {
  static const std::string identity = [] {
    std::vector<int32_t> targets(64);
    const int32_t count = keygraph_cuda_targets(targets.data(), static_cast<int32_t>(targets.size()));
    targets.resize(std::clamp<int32_t>(count, 0, static_cast<int32_t>(targets.size())));
    std::string text = "keygraph=" KEYGRAPH_LIBRARY_VERSION ";targets=";
    for (const int32_t target : targets) text += std::to_string(target) + ",";
    return text;
  }();
  return identity;
}

namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

template <class Operator>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    nvinfer1::IPluginV3* plugin = nullptr;
    guarded(std::string(Operator::kName) + " node '" + (name ? name : "") + "'",
            [&] { plugin = new Plugin<Operator>(Node::from_fields(name, fields, phase)); });
    return plugin;
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return Operator::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  // The attributes that the ONNX parser reads from a node; both are optional.
  const PluginField attributes_[2] = {{"scale", nullptr, PluginFieldType::kFLOAT32, 1},
                                      {"heads", nullptr, PluginFieldType::kINT32, 1}};
  const nvinfer1::PluginFieldCollection collection_{Operator::kHasAttributes ? 2 : 0, attributes_};
};

}  // namespace
}  // namespace keygraph::trt

extern "C" KEYGRAPH_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using namespace keygraph::trt;
  static Creator<KeyGraph> key_graph;
  static Creator<PackGraph> pack_graph;
  static Creator<TopKGraph> top_k_graph;
  static Creator<KeyGraphAttention> attention;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&key_graph, &pack_graph, &top_k_graph, &attention};
  count = 4;
  return creators;
}

extern "C" KEYGRAPH_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  keygraph::trt::set_logger_finder(finder);
}
