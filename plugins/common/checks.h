// SPDX-License-Identifier: Apache-2.0
//
// What every implementation of the C interface checks before it looks at a pointer.
#pragma once

#include "keygraph/types.h"

namespace keygraph {

inline constexpr int64_t kWordBits = 32;

// Words that hold one row of the graph.
constexpr int64_t words_of(int64_t nodes) { return nodes / kWordBits + (nodes % kWordBits != 0); }

keygraph_status check(const keygraph_graph_shape* shape, keygraph_dtype dtype);
keygraph_status check(const keygraph_attention_shape* shape, keygraph_dtype dtype, bool has_bias);

}  // namespace keygraph
