// SPDX-License-Identifier: Apache-2.0
//
// Checks of the arguments of the C interface, shared by its implementations, made before any pointer is read.
#pragma once

#include "keygraph/types.h"

namespace keygraph {

inline constexpr int64_t kWordBits = 32;

// Number of words of one row of the graph.
constexpr int64_t words_of(int64_t nodes) { return nodes / kWordBits + (nodes % kWordBits != 0); }

// The windows that a bias is for: 1 if it is the same for the whole batch.
constexpr int64_t windows_of(const keygraph_attention_shape& shape) {
  return shape.bias_windows == 0 ? 1 : shape.bias_windows;
}

// Return KEYGRAPH_OK, or why the operator cannot be called with this shape and type. `numbers`: the elements are scores
// to be compared, not a mask, which may be bool.
keygraph_status check(const keygraph_graph_shape* shape, keygraph_dtype dtype);
keygraph_status check(const keygraph_pack_shape* shape, keygraph_dtype dtype, bool numbers);
keygraph_status check(const keygraph_attention_shape* shape, keygraph_dtype dtype, bool has_bias);

}  // namespace keygraph
