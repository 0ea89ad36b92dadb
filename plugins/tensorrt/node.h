// SPDX-License-Identifier: Apache-2.0
//
// The name and attributes of a node, read from the plugin fields of the ONNX parser or of an engine.
#pragma once

#include <NvInferRuntime.h>

#include <optional>
#include <string>
#include <vector>

namespace keygraph::trt {

struct Node {
  std::string name;
  std::optional<float> scale;
  std::optional<int32_t> heads;

  // Read the fields and copy what they point to; unknown names are ignored. In the run-time phase the fields are those
  // that `fields` returned when the engine was serialized, the node's name among them. Throws OperatorError if a field
  // has a wrong type or value.
  static Node from_fields(const char* name, const nvinfer1::PluginFieldCollection* fields,
                          nvinfer1::TensorRTPhase phase);

  // The fields to serialize. They point into the node: valid while it is neither changed nor moved.
  std::vector<nvinfer1::PluginField> fields() const;

  // The attributes as text; floats with enough digits to be distinguished.
  std::string attributes() const;
};

}  // namespace keygraph::trt
