// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <initializer_list>
#include <vector>

#include "../common/checks.h"
#include "../common/operator_shapes.h"
#include "status.h"

namespace keygraph::ort {
namespace {

struct Tensor {
  Shape shape;
  const void* data;
  ElementType type;
};

Tensor input(const Api* api, OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  check(api->KernelContext_GetInput(context, index, &value));
  if (!value) return {{}, nullptr, kUndefined};
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api->GetDimensionsCount(info, &rank);
  Shape shape(rank);
  if (!status) status = api->GetDimensions(info, shape.data(), rank);
  ElementType type = kUndefined;
  if (!status) status = api->GetTensorElementType(info, &type);
  api->ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return {std::move(shape), data, type};
}

// An input that a node may lack; nothing where it does.
std::optional<Tensor> optional_input(const Api* api, OrtKernelContext* context, size_t index) {
  size_t inputs = 0;
  check(api->KernelContext_GetInputCount(context, &inputs));
  if (index >= inputs) return std::nullopt;
  const Tensor tensor = input(api, context, index);
  return tensor.data || !tensor.shape.empty() ? std::optional(tensor) : std::nullopt;
}

void* make_output(const Api* api, OrtKernelContext* context, const Shape& shape) {
  OrtValue* value = nullptr;
  check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &value));
  void* data = nullptr;
  check(api->GetTensorMutableData(value, &data));
  return data;
}

// The output's shape, from the shapes of the inputs.
Shape output_shape(const std::vector<OutputDimension>& dimensions, std::initializer_list<const Tensor*> inputs) {
  Shape shape;
  for (const OutputDimension& dimension : dimensions) {
    const int64_t size = inputs.begin()[dimension.input]->shape[dimension.axis];
    shape.push_back(dimension.in_words ? words_of(size) : size);
  }
  return shape;
}

}  // namespace

GraphCall graph_call(const Node& node, OrtKernelContext* context) {
  const Tensor query = input(node.api, context, 0), key = input(node.api, context, 1), k = input(node.api, context, 2);
  const keygraph_graph_shape shape = key_graph_shape(query.shape, key.shape, k.shape);
  void* graph = make_output(node.api, context, output_shape(key_graph_output(), {&query, &key, &k}));
  return {shape, query.data, key.data, static_cast<const int64_t*>(k.data), static_cast<int32_t*>(graph)};
}

PackCall pack_call(const Node& node, OrtKernelContext* context) {
  const Tensor mask = input(node.api, context, 0);
  const std::optional<Tensor> threshold = optional_input(node.api, context, 1);
  const keygraph_pack_shape shape = pack_graph_shape(mask.shape, threshold ? &threshold->shape : nullptr);
  void* graph = make_output(node.api, context, output_shape(pack_graph_output(), {&mask}));
  return {shape, mask.data, threshold ? threshold->data : nullptr, static_cast<int32_t*>(graph)};
}

TopKCall top_k_call(const Node& node, OrtKernelContext* context) {
  const Tensor scores = input(node.api, context, 0), k = input(node.api, context, 1);
  const keygraph_pack_shape shape = top_k_graph_shape(scores.shape, k.shape);
  void* graph = make_output(node.api, context, output_shape(pack_graph_output(), {&scores}));
  return {shape, scores.data, static_cast<const int64_t*>(k.data), static_cast<int32_t*>(graph)};
}

AttentionCall attention_call(const Node& node, OrtKernelContext* context) {
  const Tensor q = input(node.api, context, 0), k = input(node.api, context, 1), v = input(node.api, context, 2),
               graph = input(node.api, context, 3);
  const std::optional<Tensor> bias = optional_input(node.api, context, 4);
  if (q.type != k.type) throw Error{kInvalidArgument, "q and k have different element types"};
  const keygraph_attention_shape shape =
      key_graph_attention_shape(node.heads, q.shape, k.shape, v.shape, graph.shape, bias ? &bias->shape : nullptr);
  void* output = make_output(node.api, context, output_shape(key_graph_attention_output(q.shape.size()), {&q, &k, &v}));
  return {shape,
          q.data,
          k.data,
          v.data,
          static_cast<const int32_t*>(graph.data),
          bias && has_effect(bias->shape) ? bias->data : nullptr,
          node.scale.value_or(default_scale(shape.channels)),
          output};
}

}  // namespace keygraph::ort
