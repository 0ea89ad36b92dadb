// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <cmath>
#include <vector>

#include "../checks.h"
#include "status.h"

namespace keygraph::ort {
namespace {

using Shape = std::vector<int64_t>;

std::string text(const Shape& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

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

void* make_output(const Api* api, OrtKernelContext* context, const Shape& shape) {
  OrtValue* value = nullptr;
  check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &value));
  void* data = nullptr;
  check(api->GetTensorMutableData(value, &data));
  return data;
}

// A tensor's shape must have as many sizes, each the one given or anything (-1).
void expect(const char* name, const Shape& shape, const Shape& sizes, const char* meaning) {
  bool good = shape.size() == sizes.size();
  for (size_t i = 0; good && i < sizes.size(); ++i) good = sizes[i] < 0 || shape[i] == sizes[i];
  if (!good) throw Error{kInvalidArgument, std::string(name) + " has shape " + text(shape) + ", expected " + meaning};
}

void expect_heads_first(const Shape& q, const Shape& k, const Shape& v) {
  expect("q", q, {-1, -1, -1, -1}, "[B, H, M, D], or [B, M, H D] with the attribute heads");
  expect("k", k, {q[0], q[1], -1, q[3]}, ("[B, H, N, D] as q's " + text(q)).c_str());
  expect("v", v, {q[0], q[1], k[2], -1}, ("[B, H, N, Dv] as k's " + text(k)).c_str());
}

void expect_heads_last(int64_t heads, const Shape& q, const Shape& k, const Shape& v) {
  if (heads < 1) throw Error{kInvalidArgument, "q has three sizes, so the attribute heads must say how many it holds"};
  expect("k", k, {q[0], -1, q[2]}, ("[B, N, H D] as q's " + text(q)).c_str());
  expect("v", v, {q[0], k[1], -1}, ("[B, N, H Dv] as k's " + text(k)).c_str());
  if (q[2] % heads != 0 || v[2] % heads != 0)
    throw Error{kInvalidArgument, "the last sizes of q " + text(q) + " and v " + text(v) + " must be multiples of the " +
                                      std::to_string(heads) + " heads"};
}

}  // namespace

GraphCall graph_call(const Node& node, OrtKernelContext* context) {
  const Tensor query = input(node.api, context, 0), key = input(node.api, context, 1), k = input(node.api, context, 2);
  expect("query", query.shape, {-1, -1, -1, -1}, "[B, G, M, C]");
  const Shape& q = query.shape;
  expect("key", key.shape, {q[0], q[1], -1, q[3]}, ("[B, G, N, C] as query's " + text(q)).c_str());
  int64_t count = 1;
  for (const int64_t size : k.shape) count *= size;
  if (count != 1) throw Error{kInvalidArgument, "k has shape " + text(k.shape) + ", expected one number"};
  const keygraph_graph_shape shape{q[0], q[1], q[2], key.shape[2], q[3]};
  void* graph = make_output(node.api, context, {q[0], q[1], q[2], words_of(shape.nodes)});
  return {shape, query.data, key.data, static_cast<const int64_t*>(k.data), static_cast<int32_t*>(graph)};
}

AttentionCall attention_call(const Node& node, OrtKernelContext* context) {
  const Tensor query = input(node.api, context, 0), key = input(node.api, context, 1), value = input(node.api, context, 2),
               graph = input(node.api, context, 3);
  size_t inputs = 0;
  check(node.api->KernelContext_GetInputCount(context, &inputs));
  const Tensor bias = inputs > 4 ? input(node.api, context, 4) : Tensor{{}, nullptr, kUndefined};
  if (query.type != key.type) throw Error{kInvalidArgument, "q and k have different element types"};
  const Shape& q = query.shape;
  const bool heads_last = q.size() == 3;
  if (heads_last)
    expect_heads_last(node.heads, q, key.shape, value.shape);
  else
    expect_heads_first(q, key.shape, value.shape);
  const int64_t heads = heads_last ? node.heads : q[1], rows = heads_last ? q[1] : q[2];
  const int64_t nodes = key.shape[heads_last ? 1 : 2];
  const int64_t channels = heads_last ? q[2] / heads : q[3];
  const int64_t value_channels = heads_last ? value.shape[2] / heads : value.shape[3];
  const Shape wanted{q[0], -1, rows, words_of(nodes)};
  expect("graph", graph.shape, wanted,
         ("[" + std::to_string(q[0]) + ", 1 or " + std::to_string(heads) + ", " + std::to_string(rows) + ", " +
          std::to_string(wanted[3]) + "]: one bit per node of k's " + text(key.shape))
             .c_str());
  if (graph.shape[1] != 1 && graph.shape[1] != heads)
    throw Error{kInvalidArgument, "graph has " + std::to_string(graph.shape[1]) + " groups, expected 1 or the " +
                                      std::to_string(heads) + " heads"};
  if (bias.data || !bias.shape.empty())
    expect("bias", bias.shape, {heads, rows, nodes}, ("[H, M, N] = " + text({heads, rows, nodes})).c_str());
  const keygraph_attention_shape shape{q[0], heads, graph.shape[1], rows, nodes, channels, value_channels, heads_last};
  const float scale = node.has_scale ? node.scale : 1.0f / std::sqrt(static_cast<float>(channels > 0 ? channels : 1));
  void* output = make_output(node.api, context, heads_last ? Shape{q[0], rows, value.shape[2]}
                                                   : Shape{q[0], heads, rows, value_channels});
  return {shape,     query.data, key.data, value.data, static_cast<const int32_t*>(graph.data),
          bias.data, scale,      output};
}

}  // namespace keygraph::ort
