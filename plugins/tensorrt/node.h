// SPDX-License-Identifier: Apache-2.0
//
// What a node of the network says, and how it travels: as plugin fields from the ONNX parser, and in an engine.
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

  // Reads the fields and copies what they point to; names it does not know are ignored. In the run-time phase they are
  // those of `fields`, and the name that was serialized is the node's. Throws Error where a field cannot be.
  static Node from_fields(const char* name, const nvinfer1::PluginFieldCollection* fields,
                          nvinfer1::TensorRTPhase phase);

  // All that rebuilds the node. Points into it: valid while the node neither changes nor moves.
  std::vector<nvinfer1::PluginField> fields() const;

  // The attributes as text, each with the digits that tell two floats apart.
  std::string attributes() const;
};

}  // namespace keygraph::trt
