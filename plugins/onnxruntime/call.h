// SPDX-License-Identifier: Apache-2.0
//
// One call of an operator: its tensors, with their shapes checked. It reads no tensor's contents, so every provider
// uses it.
#pragma once

#include <optional>
#include <string>

#include "keygraph/types.h"
#include "ort_api.h"

namespace keygraph::ort {

enum class Operator { kKeyGraph, kPackGraph, kTopKGraph, kKeyGraphAttention };

// A node of a session.
struct Node {
  const Api* api;
  std::string where;  // "KeyGraph node 'name'": how messages start
  keygraph_dtype dtype;
  std::optional<float> scale;
  std::optional<int64_t> heads;  // needed where q, k and v are [B, N, H*D]
};

struct GraphCall {
  keygraph_graph_shape shape;
  const void *query, *key;
  const int64_t* k;
  int32_t* graph;
};

struct PackCall {
  keygraph_pack_shape shape;
  const void *mask, *threshold;
  int32_t* graph;
};

struct TopKCall {
  keygraph_pack_shape shape;
  const void* scores;
  const int64_t* k;
  int32_t* graph;
};

struct AttentionCall {
  keygraph_attention_shape shape;
  const void *q, *k, *v;
  const int32_t* graph;
  const void* bias;
  float scale;
  void* output;
};

// Check the inputs' shapes and allocate the output. Throw OperatorError, Error or StatusError.
GraphCall graph_call(const Node& node, OrtKernelContext* context);
PackCall pack_call(const Node& node, OrtKernelContext* context);
TopKCall top_k_call(const Node& node, OrtKernelContext* context);
AttentionCall attention_call(const Node& node, OrtKernelContext* context);

}  // namespace keygraph::ort
