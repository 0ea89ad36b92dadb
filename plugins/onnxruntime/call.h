// SPDX-License-Identifier: Apache-2.0
//
// One call of an operator: its tensors, with their shapes checked. The same for every provider, since it looks at no
// tensor's contents.
#pragma once

#include <string>

#include "keygraph/types.h"
#include "ort_api.h"

namespace keygraph::ort {

// A node of a session.
struct Node {
  const Api* api;
  std::string where;  // "KeyGraph node 'name'": how messages start
  keygraph_dtype dtype;
  bool has_scale;
  float scale;
  int64_t heads;  // of the form with three sizes; 0 where the node does not say
};

struct GraphCall {
  keygraph_graph_shape shape;
  const void *query, *key;
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

// Check the inputs' shapes and make the output; throw Error or StatusError.
GraphCall graph_call(const Node& node, OrtKernelContext* context);
AttentionCall attention_call(const Node& node, OrtKernelContext* context);

}  // namespace keygraph::ort
