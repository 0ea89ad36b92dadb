// SPDX-License-Identifier: Apache-2.0
//
// What the two operators are to TensorRT: their tensors, their shapes, and the call that computes them. One class per
// operator with the same functions, which `Plugin` is made of.
#pragma once

#include <NvInferRuntime.h>

#include "keygraph/cuda.h"
#include "node.h"

namespace keygraph::trt {

// What a tensor holds: numbers of the operator's storage type, words of the graph (int32), or k (int64).
enum class Role { kStorage, kGraph, kCount };

// TensorRT's types that are storage types; 0 for the others.
keygraph_dtype dtype_of(nvinfer1::DataType type);

class KeyGraph {
 public:
  static constexpr const char* kName = "KeyGraph";
  static constexpr bool kHasAttributes = false;

  struct Problem {
    keygraph_graph_shape shape;
    keygraph_dtype dtype;
  };

  static bool takes(int32_t inputs) { return inputs == 3; }
  // Tensors are numbered as TensorRT does: the inputs, then the output.
  static Role role(int32_t tensor, int32_t inputs);

  // The output's sizes as expressions of the inputs'. Throws Error where the inputs have not the number of sizes.
  static void shape(const Node& node, const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs& output,
                    nvinfer1::IExprBuilder& builder);
  // The call's sizes, all checked. Throws Error.
  static Problem problem(const Node& node, const nvinfer1::PluginTensorDesc* inputs, int32_t count);

  static int32_t variants(const Problem& problem, keygraph_variant* variants, int32_t capacity);
  static keygraph_status enqueue(const Problem& problem, const void* const* inputs, void* output,
                                 keygraph_variant variant, keygraph_stream stream);
};

class KeyGraphAttention {
 public:
  static constexpr const char* kName = "KeyGraphAttention";
  static constexpr bool kHasAttributes = true;

  struct Problem {
    keygraph_attention_shape shape;
    keygraph_dtype dtype;
    bool has_bias;
    float scale;
  };

  static bool takes(int32_t inputs) { return inputs == 4 || inputs == 5; }
  static Role role(int32_t tensor, int32_t inputs);

  static void shape(const Node& node, const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs& output,
                    nvinfer1::IExprBuilder& builder);
  static Problem problem(const Node& node, const nvinfer1::PluginTensorDesc* inputs, int32_t count);

  static int32_t variants(const Problem& problem, keygraph_variant* variants, int32_t capacity);
  static keygraph_status enqueue(const Problem& problem, const void* const* inputs, void* output,
                                 keygraph_variant variant, keygraph_stream stream);
};

}  // namespace keygraph::trt
