// SPDX-License-Identifier: Apache-2.0
//
// The operators as TensorRT needs them: their tensors, their shapes, and the call that computes them. One class per
// operator, with the same functions; the template `Plugin` is instantiated with each.
#pragma once

#include <NvInferRuntime.h>

#include "keygraph/cuda.h"
#include "node.h"

namespace keygraph::trt {

// What a tensor holds: values of the operator's storage type, a mask without a threshold (also of bool), words of the
// graph (int32), or k (int64).
enum class Role { kStorage, kMask, kGraph, kCount };

// The storage type for a type of TensorRT; 0 if it is none.
keygraph_dtype dtype_of(nvinfer1::DataType type);
keygraph_dtype mask_dtype_of(nvinfer1::DataType type);

class KeyGraph {
 public:
  static constexpr const char* kName = "KeyGraph";
  static constexpr bool kHasAttributes = false;

  struct Problem {
    keygraph_graph_shape shape;
    keygraph_dtype dtype;
  };

  static bool takes(int32_t inputs) { return inputs == 3; }
  // The role of a tensor; numbered as in TensorRT, the inputs first, then the output.
  static Role role(int32_t tensor, int32_t inputs);

  // Set the output's dimensions as expressions of the inputs'. Throws OperatorError if the inputs do not fit each
  // other, as far as their dimensions are constants.
  static void shape(const Node& node, const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs& output,
                    nvinfer1::IExprBuilder& builder);
  // The sizes of one call. Throws OperatorError.
  static Problem problem(const Node& node, const nvinfer1::PluginTensorDesc* inputs, int32_t count);

  static int32_t variants(const Problem& problem, keygraph_variant* variants, int32_t capacity);
  static keygraph_status enqueue(const Problem& problem, const void* const* inputs, void* output,
                                 keygraph_variant variant, keygraph_stream stream);
};

class PackGraph {
 public:
  static constexpr const char* kName = "PackGraph";
  static constexpr bool kHasAttributes = false;

  struct Problem {
    keygraph_pack_shape shape;
    keygraph_dtype dtype;
    bool has_threshold;
  };

  static bool takes(int32_t inputs) { return inputs == 1 || inputs == 2; }
  static Role role(int32_t tensor, int32_t inputs);

  static void shape(const Node& node, const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs& output,
                    nvinfer1::IExprBuilder& builder);
  static Problem problem(const Node& node, const nvinfer1::PluginTensorDesc* inputs, int32_t count);

  static int32_t variants(const Problem& problem, keygraph_variant* variants, int32_t capacity);
  static keygraph_status enqueue(const Problem& problem, const void* const* inputs, void* output,
                                 keygraph_variant variant, keygraph_stream stream);
};

class TopKGraph {
 public:
  static constexpr const char* kName = "TopKGraph";
  static constexpr bool kHasAttributes = false;

  struct Problem {
    keygraph_pack_shape shape;
    keygraph_dtype dtype;
  };

  static bool takes(int32_t inputs) { return inputs == 2; }
  static Role role(int32_t tensor, int32_t inputs);

  static void shape(const Node& node, const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs& output,
                    nvinfer1::IExprBuilder& builder);
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

  static void shape(const Node& node, const nvinfer1::DimsExprs* inputs, int32_t count, nvinfer1::DimsExprs& output,
                    nvinfer1::IExprBuilder& builder);
  static Problem problem(const Node& node, const nvinfer1::PluginTensorDesc* inputs, int32_t count);

  static int32_t variants(const Problem& problem, keygraph_variant* variants, int32_t capacity);
  static keygraph_status enqueue(const Problem& problem, const void* const* inputs, void* output,
                                 keygraph_variant variant, keygraph_stream stream);
};

}  // namespace keygraph::trt
