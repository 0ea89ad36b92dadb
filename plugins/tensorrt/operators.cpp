// SPDX-License-Identifier: Apache-2.0
#include "operators.h"

#include <algorithm>
#include <vector>

#include "../common/checks.h"
#include "../common/operator_shapes.h"

namespace keygraph::trt {
namespace {

using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginTensorDesc;

Shape shape_of(const Dims& dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }

// Dimensions that are constants while TensorRT builds have their size, the others are unknown.
Shape shape_of(const DimsExprs& dims) {
  Shape shape;
  for (int32_t i = 0; i < dims.nbDims; ++i)
    shape.push_back(dims.d[i]->isConstant() ? dims.d[i]->getConstantValue() : kUnknown);
  return shape;
}

void set_output(DimsExprs& output, const std::vector<OutputDimension>& dimensions, const DimsExprs* inputs,
                IExprBuilder& builder) {
  output.nbDims = 0;
  for (const OutputDimension& dimension : dimensions) {
    const nvinfer1::IDimensionExpr* size = inputs[dimension.input].d[dimension.axis];
    if (dimension.in_words)
      size = builder.operation(nvinfer1::DimensionOperation::kCEIL_DIV, *size, *builder.constant(kWordBits));
    output.d[output.nbDims++] = size;
  }
}

// The attention's shape from TensorRT's descriptions of its inputs, Dims or DimsExprs; `dims` returns the i-th one.
template <class DimsOf>
keygraph_attention_shape attention_shape(const Node& node, int32_t count, DimsOf dims) {
  const Shape bias = count > 4 ? shape_of(dims(4)) : Shape{};
  return key_graph_attention_shape(node.heads, shape_of(dims(0)), shape_of(dims(1)), shape_of(dims(2)),
                                   shape_of(dims(3)), count > 4 ? &bias : nullptr);
}

template <class DimsOf>
keygraph_pack_shape pack_shape(int32_t count, DimsOf dims) {
  const Shape threshold = count > 1 ? shape_of(dims(1)) : Shape{};
  return pack_graph_shape(shape_of(dims(0)), count > 1 ? &threshold : nullptr);
}

keygraph_dtype storage(const PluginTensorDesc& tensor) {
  const keygraph_dtype dtype = dtype_of(tensor.type);
  if (!dtype) throw OperatorError(KEYGRAPH_BAD_DTYPE, keygraph_status_message(KEYGRAPH_BAD_DTYPE));
  return dtype;
}

}  // namespace

keygraph_dtype dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return KEYGRAPH_FLOAT32;
    case nvinfer1::DataType::kHALF:
      return KEYGRAPH_FLOAT16;
    case nvinfer1::DataType::kBF16:
      return KEYGRAPH_BFLOAT16;
    default:
      return keygraph_dtype{};
  }
}

keygraph_dtype mask_dtype_of(nvinfer1::DataType type) {
  return type == nvinfer1::DataType::kBOOL ? KEYGRAPH_BOOL : dtype_of(type);
}

// ---- KeyGraph(query, key, k) -> graph ----

Role KeyGraph::role(int32_t tensor, int32_t inputs) {
  return tensor == inputs ? Role::kGraph : tensor == 2 ? Role::kCount : Role::kStorage;
}

void KeyGraph::shape(const Node&, const DimsExprs* inputs, int32_t, DimsExprs& output, IExprBuilder& builder) {
  key_graph_shape(shape_of(inputs[0]), shape_of(inputs[1]), shape_of(inputs[2]));
  set_output(output, key_graph_output(), inputs, builder);
}

KeyGraph::Problem KeyGraph::problem(const Node&, const PluginTensorDesc* inputs, int32_t) {
  return {key_graph_shape(shape_of(inputs[0].dims), shape_of(inputs[1].dims), shape_of(inputs[2].dims)),
          storage(inputs[0])};
}

int32_t KeyGraph::variants(const Problem& problem, keygraph_variant* variants, int32_t capacity) {
  return keygraph_cuda_key_graph_variants(&problem.shape, problem.dtype, 0, variants, capacity);
}

keygraph_status KeyGraph::enqueue(const Problem& problem, const void* const* inputs, void* output,
                                  keygraph_variant variant, keygraph_stream stream) {
  return keygraph_cuda_key_graph(&problem.shape, problem.dtype, inputs[0], inputs[1],
                                 static_cast<const int64_t*>(inputs[2]), static_cast<int32_t*>(output), variant,
                                 stream);
}

// ---- PackGraph(mask[, threshold]) -> graph ----

Role PackGraph::role(int32_t tensor, int32_t inputs) {
  return tensor == inputs ? Role::kGraph : inputs == 1 ? Role::kMask : Role::kStorage;
}

void PackGraph::shape(const Node&, const DimsExprs* inputs, int32_t count, DimsExprs& output, IExprBuilder& builder) {
  pack_shape(count, [&](int32_t i) { return inputs[i]; });
  set_output(output, pack_graph_output(), inputs, builder);
}

PackGraph::Problem PackGraph::problem(const Node&, const PluginTensorDesc* inputs, int32_t count) {
  const keygraph_pack_shape shape = pack_shape(count, [&](int32_t i) { return inputs[i].dims; });
  const keygraph_dtype dtype = count == 1 ? mask_dtype_of(inputs[0].type) : dtype_of(inputs[0].type);
  if (!dtype) throw OperatorError(KEYGRAPH_BAD_DTYPE, keygraph_status_message(KEYGRAPH_BAD_DTYPE));
  return {shape, dtype, count == 2};
}

int32_t PackGraph::variants(const Problem& problem, keygraph_variant* variants, int32_t capacity) {
  return keygraph_cuda_pack_graph_variants(&problem.shape, problem.dtype, problem.has_threshold, 0, variants, capacity);
}

keygraph_status PackGraph::enqueue(const Problem& problem, const void* const* inputs, void* output,
                                   keygraph_variant variant, keygraph_stream stream) {
  return keygraph_cuda_pack_graph(&problem.shape, problem.dtype, inputs[0], problem.has_threshold ? inputs[1] : nullptr,
                                  static_cast<int32_t*>(output), variant, stream);
}

// ---- TopKGraph(scores, k) -> graph ----

Role TopKGraph::role(int32_t tensor, int32_t inputs) {
  return tensor == inputs ? Role::kGraph : tensor == 1 ? Role::kCount : Role::kStorage;
}

void TopKGraph::shape(const Node&, const DimsExprs* inputs, int32_t, DimsExprs& output, IExprBuilder& builder) {
  top_k_graph_shape(shape_of(inputs[0]), shape_of(inputs[1]));
  set_output(output, pack_graph_output(), inputs, builder);
}

TopKGraph::Problem TopKGraph::problem(const Node&, const PluginTensorDesc* inputs, int32_t) {
  return {top_k_graph_shape(shape_of(inputs[0].dims), shape_of(inputs[1].dims)), storage(inputs[0])};
}

int32_t TopKGraph::variants(const Problem& problem, keygraph_variant* variants, int32_t capacity) {
  return keygraph_cuda_top_k_graph_variants(&problem.shape, problem.dtype, 0, variants, capacity);
}

keygraph_status TopKGraph::enqueue(const Problem& problem, const void* const* inputs, void* output,
                                   keygraph_variant variant, keygraph_stream stream) {
  return keygraph_cuda_top_k_graph(&problem.shape, problem.dtype, inputs[0], static_cast<const int64_t*>(inputs[1]),
                                   static_cast<int32_t*>(output), variant, stream);
}

// ---- KeyGraphAttention(q, k, v, graph[, bias]) -> output ----

Role KeyGraphAttention::role(int32_t tensor, int32_t inputs) {
  return tensor == 3 && inputs > 3 ? Role::kGraph : Role::kStorage;
}

void KeyGraphAttention::shape(const Node& node, const DimsExprs* inputs, int32_t count, DimsExprs& output,
                              IExprBuilder& builder) {
  attention_shape(node, count, [&](int32_t i) { return inputs[i]; });
  set_output(output, key_graph_attention_output(inputs[0].nbDims), inputs, builder);
}

KeyGraphAttention::Problem KeyGraphAttention::problem(const Node& node, const PluginTensorDesc* inputs, int32_t count) {
  const keygraph_attention_shape shape = attention_shape(node, count, [&](int32_t i) { return inputs[i].dims; });
  const bool has_bias = count > 4 && has_effect(shape_of(inputs[4].dims));
  return {shape, storage(inputs[0]), has_bias, node.scale.value_or(default_scale(shape.channels))};
}

int32_t KeyGraphAttention::variants(const Problem& problem, keygraph_variant* variants, int32_t capacity) {
  return keygraph_cuda_key_graph_attention_variants(&problem.shape, problem.dtype, problem.has_bias, 0, variants,
                                                    capacity);
}

keygraph_status KeyGraphAttention::enqueue(const Problem& problem, const void* const* inputs, void* output,
                                           keygraph_variant variant, keygraph_stream stream) {
  return keygraph_cuda_key_graph_attention(
      &problem.shape, problem.dtype, inputs[0], inputs[1], inputs[2], static_cast<const int32_t*>(inputs[3]),
      problem.has_bias ? inputs[4] : nullptr, problem.scale, output, variant, stream);
}

}  // namespace keygraph::trt
