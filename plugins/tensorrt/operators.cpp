// SPDX-License-Identifier: Apache-2.0
#include "operators.h"

#include <cmath>
#include <initializer_list>
#include <string>

#include "../checks.h"
#include "log.h"

namespace keygraph::trt {
namespace {

using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::IExprBuilder;
using nvinfer1::PluginTensorDesc;

std::string text(const Dims& dims) {
  std::string all = "[";
  for (int32_t i = 0; i < dims.nbDims; ++i) all += (i ? ", " : "") + std::to_string(dims.d[i]);
  return all + "]";
}

[[noreturn]] void refuse(const std::string& message) { throw Error(KEYGRAPH_BAD_SHAPE, message); }

// Refuses unless the tensor has as many sizes, each the one given or anything (-1).
void expect(const char* name, const Dims& dims, std::initializer_list<int64_t> sizes, const std::string& meaning) {
  bool good = dims.nbDims == static_cast<int32_t>(sizes.size());
  const int64_t* size = sizes.begin();
  for (int32_t i = 0; good && i < dims.nbDims; ++i) good = size[i] < 0 || dims.d[i] == size[i];
  if (!good) refuse(std::string(name) + " has shape " + text(dims) + ", expected " + meaning);
}

void expect_sizes(const char* name, const DimsExprs& dims, int32_t count) {
  if (dims.nbDims != count)
    refuse(std::string(name) + " has " + std::to_string(dims.nbDims) + " sizes, expected " + std::to_string(count));
}

keygraph_dtype storage(const PluginTensorDesc& tensor) {
  const keygraph_dtype dtype = dtype_of(tensor.type);
  if (!dtype) throw Error(KEYGRAPH_BAD_DTYPE, keygraph_status_message(KEYGRAPH_BAD_DTYPE));
  return dtype;
}

// As the attention with four sizes, but for the place of the heads.
struct Heads {
  bool last;
  int64_t count, rows, nodes, channels, value_channels;
};

Heads heads_of(const Node& node, const Dims& q, const Dims& k, const Dims& v) {
  if (q.nbDims != 3) {
    expect("q", q, {-1, -1, -1, -1}, "[B, H, M, D], or [B, M, H D] with the attribute heads");
    expect("k", k, {q.d[0], q.d[1], -1, q.d[3]}, "[B, H, N, D] as q's " + text(q));
    expect("v", v, {q.d[0], q.d[1], k.d[2], -1}, "[B, H, N, Dv] as k's " + text(k));
    return {false, q.d[1], q.d[2], k.d[2], q.d[3], v.d[3]};
  }
  if (!node.heads) refuse("q has three sizes, so the attribute heads must say how many it holds");
  const int64_t heads = *node.heads;
  expect("k", k, {q.d[0], -1, q.d[2]}, "[B, N, H D] as q's " + text(q));
  expect("v", v, {q.d[0], k.d[1], -1}, "[B, N, H Dv] as k's " + text(k));
  if (q.d[2] % heads != 0 || v.d[2] % heads != 0)
    refuse("the last sizes of q " + text(q) + " and v " + text(v) + " must be multiples of the " +
           std::to_string(heads) + " heads");
  return {true, heads, q.d[1], k.d[1], q.d[2] / heads, v.d[2] / heads};
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

// ---- KeyGraph(query, key, k) -> graph ----

Role KeyGraph::role(int32_t tensor, int32_t inputs) {
  return tensor == inputs ? Role::kGraph : tensor == 2 ? Role::kCount : Role::kStorage;
}

void KeyGraph::shape(const Node&, const DimsExprs* inputs, DimsExprs& output, IExprBuilder& builder) {
  expect_sizes("query", inputs[0], 4);
  expect_sizes("key", inputs[1], 4);
  output = inputs[0];
  output.d[3] =
      builder.operation(nvinfer1::DimensionOperation::kCEIL_DIV, *inputs[1].d[2], *builder.constant(kWordBits));
}

KeyGraph::Problem KeyGraph::problem(const Node&, const PluginTensorDesc* inputs, int32_t) {
  const Dims &query = inputs[0].dims, &key = inputs[1].dims, &k = inputs[2].dims;
  expect("query", query, {-1, -1, -1, -1}, "[B, G, M, C]");
  expect("key", key, {query.d[0], query.d[1], -1, query.d[3]}, "[B, G, N, C] as query's " + text(query));
  if (k.nbDims != 0) expect("k", k, {1}, "one number");
  return {{query.d[0], query.d[1], query.d[2], key.d[2], query.d[3]}, storage(inputs[0])};
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

// ---- KeyGraphAttention(q, k, v, graph[, bias]) -> output ----

Role KeyGraphAttention::role(int32_t tensor, int32_t inputs) {
  return tensor == 3 && inputs > 3 ? Role::kGraph : Role::kStorage;
}

void KeyGraphAttention::shape(const Node& node, const DimsExprs* inputs, DimsExprs& output, IExprBuilder&) {
  const int32_t sizes = inputs[0].nbDims == 3 ? 3 : 4;
  if (sizes == 3 && !node.heads) refuse("q has three sizes, so the attribute heads must say how many it holds");
  expect_sizes("q", inputs[0], sizes);
  expect_sizes("k", inputs[1], sizes);
  expect_sizes("v", inputs[2], sizes);
  expect_sizes("graph", inputs[3], 4);
  output = inputs[0];
  output.d[sizes - 1] = inputs[2].d[sizes - 1];
}

KeyGraphAttention::Problem KeyGraphAttention::problem(const Node& node, const PluginTensorDesc* inputs,
                                                      int32_t count) {
  const Dims &q = inputs[0].dims, &graph = inputs[3].dims;
  const Heads heads = heads_of(node, q, inputs[1].dims, inputs[2].dims);
  const int64_t words = words_of(heads.nodes);
  expect("graph", graph, {q.d[0], -1, heads.rows, words},
         "[" + std::to_string(q.d[0]) + ", 1 or " + std::to_string(heads.count) + ", " + std::to_string(heads.rows) +
             ", " + std::to_string(words) + "]: one bit per node of k's " + text(inputs[1].dims));
  if (graph.d[1] != 1 && graph.d[1] != heads.count)
    throw Error(KEYGRAPH_BAD_GROUPS, "graph has " + std::to_string(graph.d[1]) + " groups, expected 1 or the " +
                                         std::to_string(heads.count) + " heads");
  const bool has_bias = count > 4;
  if (has_bias)
    expect("bias", inputs[4].dims, {heads.count, heads.rows, heads.nodes},
           "[H, M, N] = " + text(Dims{3, {heads.count, heads.rows, heads.nodes}}));
  const float scale =
      node.scale ? *node.scale : 1.0f / std::sqrt(static_cast<float>(heads.channels > 0 ? heads.channels : 1));
  return {{q.d[0], heads.count, graph.d[1], heads.rows, heads.nodes, heads.channels, heads.value_channels, heads.last},
          storage(inputs[0]),
          has_bias,
          scale};
}

int32_t KeyGraphAttention::variants(const Problem& problem, keygraph_variant* variants, int32_t capacity) {
  return keygraph_cuda_key_graph_attention_variants(&problem.shape, problem.dtype, problem.has_bias, 0, variants,
                                                    capacity);
}

keygraph_status KeyGraphAttention::enqueue(const Problem& problem, const void* const* inputs, void* output,
                                           keygraph_variant variant, keygraph_stream stream) {
  return keygraph_cuda_key_graph_attention(&problem.shape, problem.dtype, inputs[0], inputs[1], inputs[2],
                                           static_cast<const int32_t*>(inputs[3]),
                                           problem.has_bias ? inputs[4] : nullptr, problem.scale, output, variant,
                                           stream);
}

}  // namespace keygraph::trt
