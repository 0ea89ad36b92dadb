// SPDX-License-Identifier: Apache-2.0
//
// The shape contract of the operators for the C++ adapters: which shapes and attributes the operators
// accept, what the output's shape is, and the error message otherwise. No framework's header is needed here.
// plugins/torch/shapes.py is the same contract for Python; tests/plugins/test_operator_errors.py compares the messages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "keygraph/types.h"

namespace keygraph {

// Sizes of a tensor's dimensions. kUnknown stands for a dimension that is not known yet and matches any size.
using Shape = std::vector<int64_t>;
inline constexpr int64_t kUnknown = -1;

// An operator was called with inputs or attributes that it does not accept. The message does not name the node.
struct OperatorError : std::runtime_error {
  OperatorError(keygraph_status code, const std::string& message) : std::runtime_error(message), status(code) {}
  keygraph_status status;
};

// One dimension of an operator's output: the size of dimension `axis` of input `input`, or the number of graph words
// for so many nodes.
struct OutputDimension {
  size_t input, axis;
  bool in_words;
};

// Check the shapes of KeyGraph's inputs: query [B, G, M, C], key [B, G, N, C], k with one element. Where dimensions are
// unknown, those of the result are too. Throws OperatorError.
keygraph_graph_shape key_graph_shape(const Shape& query, const Shape& key, const Shape& k);

// The shape of KeyGraph's output, [B, G, M, ceil(N / 32)].
std::vector<OutputDimension> key_graph_output();

// The input k of KeyGraph and TopKGraph, where the host can read it. Throws OperatorError if it is below 1.
void check_k(int64_t k);

// Check the shapes of PackGraph's inputs: mask [B, G, M, N]; threshold [B, G, M, 1], or null for none. Throws
// OperatorError.
keygraph_pack_shape pack_graph_shape(const Shape& mask, const Shape* threshold);

// The shape of PackGraph's output, [B, G, M, ceil(N / 32)]; TopKGraph's, too.
std::vector<OutputDimension> pack_graph_output();

// Check the shapes of TopKGraph's inputs: scores [B, G, M, N], k with one element. Throws OperatorError.
keygraph_pack_shape top_k_graph_shape(const Shape& scores, const Shape& k);

// Check the shapes of KeyGraphAttention's inputs: q [B, H, M, D], k [B, H, N, D], v [B, H, N, Dv]; or q [B, M, H*D],
// k [B, N, H*D], v [B, N, H*Dv] with the attribute `heads`, which the first form ignores. graph [B, 1 or H, M,
// ceil(N / 32)]; bias [H, M, N] or [W, H, M, N] with B a multiple of W, [1, 1, 1], or null for none. Throws OperatorError.
keygraph_attention_shape key_graph_attention_shape(std::optional<int64_t> heads, const Shape& q, const Shape& k,
                                                   const Shape& v, const Shape& graph, const Shape* bias);

// Whether a bias is read: [1, 1, 1] is the same number everywhere, which a softmax does not see.
bool has_effect(const Shape& bias);

// The shape of KeyGraphAttention's output for a q of `rank` dimensions: q's, with v's last dimension.
std::vector<OutputDimension> key_graph_attention_output(size_t rank);

// The attribute `scale` where the node has none: channels^-1/2.
float default_scale(int64_t channels);

}  // namespace keygraph
