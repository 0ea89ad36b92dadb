// SPDX-License-Identifier: Apache-2.0
#include "operator_shapes.h"

#include <algorithm>
#include <cmath>

#include "checks.h"

namespace keygraph {
namespace {

std::string text(int64_t size) { return size == kUnknown ? "?" : std::to_string(size); }

std::string text(const Shape& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + text(shape[i]);
  return result + "]";
}

bool may_equal(int64_t size, int64_t expected) { return size == kUnknown || expected == kUnknown || size == expected; }

bool may_equal(const Shape& shape, const Shape& expected) {
  return std::equal(shape.begin(), shape.end(), expected.begin(), expected.end(),
                    [](int64_t size, int64_t other) { return may_equal(size, other); });
}

int64_t words_of_any(int64_t nodes) { return nodes == kUnknown ? kUnknown : words_of(nodes); }

int64_t divided(int64_t size, int64_t heads) { return size == kUnknown ? kUnknown : size / heads; }

[[noreturn]] void refuse(const std::string& message, keygraph_status status = KEYGRAPH_BAD_SHAPE) {
  throw OperatorError(status, message);
}

// `wanted` describes `expected` in the message.
void expect(const char* name, const Shape& shape, const Shape& expected, const std::string& wanted) {
  if (!may_equal(shape, expected)) refuse(std::string(name) + " has shape " + text(shape) + ", expected " + wanted);
}

// "B" and "H" where the size is not known, else the number.
std::string or_name(int64_t size, const char* name) { return size == kUnknown ? name : std::to_string(size); }

// The attention's sizes but for the graph's.
keygraph_attention_shape heads_first(const Shape& q, const Shape& k, const Shape& v) {
  expect("q", q, Shape(4, kUnknown), "[B, H, M, D], or [B, M, H*D] with heads");
  const int64_t batch = q[0], heads = q[1];
  const std::string outer = "[" + or_name(batch, "B") + ", " + or_name(heads, "H") + ", ";
  expect("k", k, {batch, heads, kUnknown, q[3]},
         "[B, H, N, D] = " + outer + "N, " + or_name(q[3], "D") + "] to match q " + text(q));
  expect("v", v, {batch, heads, k[2], kUnknown},
         "[B, H, N, Dv] = " + outer + or_name(k[2], "N") + ", Dv] to match k " + text(k));
  return {batch, heads, kUnknown, q[2], k[2], q[3], v[3], 0, 0};
}

keygraph_attention_shape heads_last(std::optional<int64_t> heads, const Shape& q, const Shape& k, const Shape& v) {
  if (!heads) refuse("q has shape " + text(q) + ", which is [B, M, H*D], so heads must be given");
  if (*heads < 1) refuse("heads is " + std::to_string(*heads) + "; it must be at least 1");
  const int64_t batch = q[0];
  const std::string outer = "[" + or_name(batch, "B") + ", ";
  expect("k", k, {batch, kUnknown, q[2]},
         "[B, N, H*D] = " + outer + "N, " + or_name(q[2], "H*D") + "] to match q " + text(q));
  expect("v", v, {batch, k[1], kUnknown},
         "[B, N, H*Dv] = " + outer + or_name(k[1], "N") + ", H*Dv] to match k " + text(k));
  for (const int64_t size : {q[2], v[2]})
    if (size != kUnknown && size % *heads != 0)
      refuse("the last dimensions of q " + text(q) + " and v " + text(v) + " must be multiples of heads, which is " +
             std::to_string(*heads));
  return {batch, *heads, kUnknown, q[1], k[1], divided(q[2], *heads), divided(v[2], *heads), 1, 0};
}

void expect_one_element(const Shape& k) {
  if (!std::all_of(k.begin(), k.end(), [](int64_t size) { return may_equal(size, 1); }))
    refuse("k has shape " + text(k) + ", expected one element");
}

bool may_divide(int64_t windows, int64_t batch) {
  if (windows == kUnknown || batch == kUnknown) return true;
  return windows == 0 ? batch == 0 : batch % windows == 0;
}

// The shape's `bias_windows`.
int64_t bias_windows(const keygraph_attention_shape& shape, const Shape& bias) {
  const bool per_window = bias.size() == 4;
  Shape expected = {shape.heads, shape.rows, shape.nodes};
  if (per_window) expected.insert(expected.begin(), bias[0]);
  if (!may_equal(bias, expected) || (per_window && !may_divide(bias[0], shape.batch)))
    refuse("bias has shape " + text(bias) + ", expected [H, M, N] = [" + or_name(shape.heads, "H") + ", " +
           or_name(shape.rows, "M") + ", " + or_name(shape.nodes, "N") + "], or [W, H, M, N] with W a divisor of B" +
           (shape.batch == kUnknown ? "" : " = " + std::to_string(shape.batch)));
  return per_window ? bias[0] : 0;
}

}  // namespace

keygraph_graph_shape key_graph_shape(const Shape& query, const Shape& key, const Shape& k) {
  expect("query", query, Shape(4, kUnknown), "[B, G, M, C]");
  expect("key", key, {query[0], query[1], kUnknown, query[3]},
         "[B, G, N, C] = [" + or_name(query[0], "B") + ", " + or_name(query[1], "G") + ", N, " +
             or_name(query[3], "C") + "] to match query " + text(query));
  expect_one_element(k);
  return {query[0], query[1], query[2], key[2], query[3]};
}

std::vector<OutputDimension> key_graph_output() { return {{0, 0, false}, {0, 1, false}, {0, 2, false}, {1, 2, true}}; }

void check_k(int64_t k) {
  if (k < 1) refuse("k is " + std::to_string(k) + "; it must be at least 1", KEYGRAPH_BAD_K);
}

keygraph_pack_shape pack_graph_shape(const Shape& mask, const Shape* threshold) {
  expect("mask", mask, Shape(4, kUnknown), "[B, G, M, N]");
  if (threshold)
    expect("threshold", *threshold, {mask[0], mask[1], mask[2], 1},
           "[B, G, M, 1] = [" + or_name(mask[0], "B") + ", " + or_name(mask[1], "G") + ", " + or_name(mask[2], "M") +
               ", 1] to match mask " + text(mask));
  return {mask[0], mask[1], mask[2], mask[3]};
}

std::vector<OutputDimension> pack_graph_output() { return {{0, 0, false}, {0, 1, false}, {0, 2, false}, {0, 3, true}}; }

keygraph_pack_shape top_k_graph_shape(const Shape& scores, const Shape& k) {
  expect("scores", scores, Shape(4, kUnknown), "[B, G, M, N]");
  expect_one_element(k);
  return {scores[0], scores[1], scores[2], scores[3]};
}

keygraph_attention_shape key_graph_attention_shape(std::optional<int64_t> heads, const Shape& q, const Shape& k,
                                                   const Shape& v, const Shape& graph, const Shape* bias) {
  keygraph_attention_shape shape = q.size() == 3 ? heads_last(heads, q, k, v) : heads_first(q, k, v);
  const int64_t words = words_of_any(shape.nodes);
  const std::string wanted = "[B, 1 or H, M, ceil(N/32)] = [" + or_name(shape.batch, "B") + ", 1 or " +
                             or_name(shape.heads, "H") + ", " + or_name(shape.rows, "M") + ", " +
                             or_name(words, "ceil(N/32)") + "]";
  expect("graph", graph, {shape.batch, kUnknown, shape.rows, words}, wanted);
  shape.groups = graph[1];
  if (!may_equal(shape.groups, 1) && !may_equal(shape.groups, shape.heads))
    refuse("graph has shape " + text(graph) + ", expected " + wanted, KEYGRAPH_BAD_GROUPS);
  if (bias && has_effect(*bias)) shape.bias_windows = bias_windows(shape, *bias);
  return shape;
}

bool has_effect(const Shape& bias) { return bias != Shape{1, 1, 1}; }

std::vector<OutputDimension> key_graph_attention_output(size_t rank) {
  std::vector<OutputDimension> dimensions;
  for (size_t axis = 0; axis + 1 < rank; ++axis) dimensions.push_back({0, axis, false});
  dimensions.push_back({2, rank - 1, false});
  return dimensions;
}

float default_scale(int64_t channels) { return 1.0f / std::sqrt(static_cast<float>(std::max<int64_t>(channels, 1))); }

}  // namespace keygraph
