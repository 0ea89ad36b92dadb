// SPDX-License-Identifier: Apache-2.0
#include "operators.h"

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <string>
#include <vector>

#include "../common/checks.h"
#include "../common/operator_shapes.h"
#include "keygraph/cpu.h"
#include "openvino/core/parallel.hpp"

namespace keygraph::openvino {
namespace {

// An error whose message does not start with a file and a line of this library.
struct Error : ov::Exception {
  explicit Error(const std::string& message) : ov::Exception(message) {}
};

// Run `body`; an OperatorError becomes an Error whose message names the node.
template <class Body>
auto named(const Operation& node, Body body) {
  try {
    return body();
  } catch (const OperatorError& error) {
    const std::string name = node.onnx_name.empty() ? node.get_friendly_name() : node.onnx_name;
    throw Error(std::string(node.get_type_name()) + " node '" + name + "': " + error.what());
  }
}

// OpenVINO's threads behind keygraph_parallel: those of the stream that runs the node.
void run_tasks(void*, size_t tasks, void (*task)(void*, size_t), void* argument) {
  std::atomic<size_t> next{0};
  const size_t threads = std::min<size_t>(tasks, parallel_get_max_threads());
  ov::parallel_nt(static_cast<int>(threads), [&](int, int) {
    for (size_t index = next++; index < tasks; index = next++) task(argument, index);
  });
}

constexpr keygraph_parallel kParallel{run_tasks, nullptr};

void require(keygraph_status status) {
  if (status != KEYGRAPH_OK) throw OperatorError(status, keygraph_status_message(status));
}

keygraph_dtype storage(const ov::element::Type& type) {
  if (type == ov::element::f32) return KEYGRAPH_FLOAT32;
  if (type == ov::element::f16) return KEYGRAPH_FLOAT16;
  if (type == ov::element::bf16) return KEYGRAPH_BFLOAT16;
  throw OperatorError(KEYGRAPH_BAD_DTYPE, keygraph_status_message(KEYGRAPH_BAD_DTYPE));
}

// Check that the floating-point inputs have one element type that is supported; a type may not be known yet.
void check_types(const std::vector<ov::element::Type>& types) {
  for (const ov::element::Type& type : types) {
    if (type.is_static()) storage(type);
    if (type.is_static() && types[0].is_static() && type != types[0])
      throw OperatorError(KEYGRAPH_BAD_DTYPE, "the inputs have the element types " + types[0].to_string() + " and " +
                                                  type.to_string() + ", which must be the same");
  }
}

// The type of a mask without a threshold. OpenVINO's CPU plugin stores bool as u8.
keygraph_dtype mask_storage(const ov::element::Type& type) {
  return type == ov::element::boolean || type == ov::element::u8 ? KEYGRAPH_BOOL : storage(type);
}

void check_mask_types(const std::vector<ov::element::Type>& types) {
  if (types.size() > 1) return check_types(types);
  if (types[0].is_static()) mask_storage(types[0]);
}

// OpenVINO's CPU plugin stores int64 as int32.
int64_t value_of(const ov::Tensor& k) {
  return k.get_element_type() == ov::element::i32 ? *k.data<const int32_t>() : *k.data<const int64_t>();
}

Shape sizes(const ov::Shape& shape) { return Shape(shape.begin(), shape.end()); }

Shape sizes(const ov::PartialShape& shape) {
  Shape result;
  for (const ov::Dimension& size : shape) result.push_back(size.is_static() ? size.get_length() : kUnknown);
  return result;
}

ov::Dimension in_words(const ov::Dimension& nodes) {
  return nodes.is_static() ? ov::Dimension(words_of(nodes.get_length())) : ov::Dimension::dynamic();
}

size_t in_words(size_t nodes) { return words_of(static_cast<int64_t>(nodes)); }

// The output's shape, from those of the inputs: ov::Shape or ov::PartialShape.
template <class AnyShape>
AnyShape output_shape(const std::vector<OutputDimension>& dimensions, const std::vector<AnyShape>& inputs) {
  AnyShape shape;
  for (const OutputDimension& dimension : dimensions) {
    const auto& size = inputs[dimension.input][dimension.axis];
    shape.push_back(dimension.in_words ? in_words(size) : size);
  }
  return shape;
}

template <class AnyTensor>
std::vector<ov::element::Type> types_of(const AnyTensor& tensors, std::initializer_list<size_t> which) {
  std::vector<ov::element::Type> types;
  for (const size_t index : which)
    if (index < tensors.size()) types.push_back(tensors[index].get_element_type());
  return types;
}

std::vector<ov::PartialShape> shapes_of(const ov::OutputVector& inputs) {
  std::vector<ov::PartialShape> shapes;
  for (const ov::Output<ov::Node>& input : inputs) shapes.push_back(input.get_partial_shape());
  return shapes;
}

std::vector<ov::Shape> shapes_of(const ov::TensorVector& inputs) {
  std::vector<ov::Shape> shapes;
  for (const ov::Tensor& input : inputs) shapes.push_back(input.get_shape());
  return shapes;
}

bool ranks_known(const std::vector<ov::PartialShape>& shapes) {
  return std::all_of(shapes.begin(), shapes.end(),
                     [](const ov::PartialShape& shape) { return shape.rank().is_static(); });
}

template <class AnyShape>
keygraph_graph_shape graph_shape(const std::vector<AnyShape>& inputs) {
  return key_graph_shape(sizes(inputs[0]), sizes(inputs[1]), sizes(inputs[2]));
}

template <class AnyShape>
keygraph_pack_shape pack_shape(const std::vector<AnyShape>& inputs) {
  const Shape threshold = inputs.size() > 1 ? sizes(inputs[1]) : Shape{};
  return pack_graph_shape(sizes(inputs[0]), inputs.size() > 1 ? &threshold : nullptr);
}

template <class AnyShape>
keygraph_pack_shape top_k_shape(const std::vector<AnyShape>& inputs) {
  return top_k_graph_shape(sizes(inputs[0]), sizes(inputs[1]));
}

template <class AnyShape>
keygraph_attention_shape attention_shape(std::optional<int64_t> heads, const std::vector<AnyShape>& inputs) {
  const Shape bias = inputs.size() > 4 ? sizes(inputs[4]) : Shape{};
  return key_graph_attention_shape(heads, sizes(inputs[0]), sizes(inputs[1]), sizes(inputs[2]), sizes(inputs[3]),
                                   inputs.size() > 4 ? &bias : nullptr);
}

std::shared_ptr<ov::Node> clone(std::shared_ptr<Operation> copy, const Operation& original,
                                const ov::OutputVector& inputs) {
  copy->set_friendly_name(original.get_friendly_name());
  copy->onnx_name = original.onnx_name;
  copy->set_arguments(inputs);
  copy->constructor_validate_and_infer_types();
  return copy;
}

}  // namespace

void Operation::validate_and_infer_types() {
  const Result result = named(*this, [&] { return infer(); });
  set_output_type(0, result.type, result.shape);
}

bool Operation::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  named(*this, [&] { compute(outputs[0], inputs); });
  return true;
}

bool KeyGraph::visit_attributes(ov::AttributeVisitor& visitor) {
  visitor.on_attribute("onnx_name", onnx_name);
  return true;
}

std::shared_ptr<ov::Node> KeyGraph::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  return clone(std::make_shared<KeyGraph>(), *this, inputs);
}

Operation::Result KeyGraph::infer() const {
  check_types(types_of(input_values(), {0, 1}));
  const std::vector<ov::PartialShape> inputs = shapes_of(input_values());
  if (!ranks_known(inputs)) return {ov::element::i32, ov::PartialShape::dynamic(4)};
  graph_shape(inputs);
  return {ov::element::i32, output_shape(key_graph_output(), inputs)};
}

void KeyGraph::compute(ov::Tensor& output, const ov::TensorVector& inputs) const {
  check_types(types_of(inputs, {0, 1}));
  const ov::Tensor &query = inputs[0], &key = inputs[1], &k = inputs[2];
  const std::vector<ov::Shape> shapes = shapes_of(inputs);
  const keygraph_graph_shape shape = graph_shape(shapes);
  const int64_t selected = value_of(k);
  check_k(selected);
  output.set_shape(output_shape(key_graph_output(), shapes));
  require(keygraph_cpu_key_graph(&shape, storage(query.get_element_type()), query.data(), key.data(), selected,
                                 output.data<int32_t>(), &kParallel));
}

bool PackGraph::visit_attributes(ov::AttributeVisitor& visitor) {
  visitor.on_attribute("onnx_name", onnx_name);
  return true;
}

std::shared_ptr<ov::Node> PackGraph::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  return clone(std::make_shared<PackGraph>(), *this, inputs);
}

Operation::Result PackGraph::infer() const {
  check_mask_types(types_of(input_values(), {0, 1}));
  const std::vector<ov::PartialShape> inputs = shapes_of(input_values());
  if (!ranks_known(inputs)) return {ov::element::i32, ov::PartialShape::dynamic(4)};
  pack_shape(inputs);
  return {ov::element::i32, output_shape(pack_graph_output(), inputs)};
}

void PackGraph::compute(ov::Tensor& output, const ov::TensorVector& inputs) const {
  check_mask_types(types_of(inputs, {0, 1}));
  const std::vector<ov::Shape> shapes = shapes_of(inputs);
  const keygraph_pack_shape shape = pack_shape(shapes);
  output.set_shape(output_shape(pack_graph_output(), shapes));
  require(keygraph_cpu_pack_graph(&shape, mask_storage(inputs[0].get_element_type()), inputs[0].data(),
                                  inputs.size() > 1 ? inputs[1].data() : nullptr, output.data<int32_t>(), &kParallel));
}

bool TopKGraph::visit_attributes(ov::AttributeVisitor& visitor) {
  visitor.on_attribute("onnx_name", onnx_name);
  return true;
}

std::shared_ptr<ov::Node> TopKGraph::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  return clone(std::make_shared<TopKGraph>(), *this, inputs);
}

Operation::Result TopKGraph::infer() const {
  check_types(types_of(input_values(), {0}));
  const std::vector<ov::PartialShape> inputs = shapes_of(input_values());
  if (!ranks_known(inputs)) return {ov::element::i32, ov::PartialShape::dynamic(4)};
  top_k_shape(inputs);
  return {ov::element::i32, output_shape(pack_graph_output(), inputs)};
}

void TopKGraph::compute(ov::Tensor& output, const ov::TensorVector& inputs) const {
  check_types(types_of(inputs, {0}));
  const std::vector<ov::Shape> shapes = shapes_of(inputs);
  const keygraph_pack_shape shape = top_k_shape(shapes);
  const int64_t selected = value_of(inputs[1]);
  check_k(selected);
  output.set_shape(output_shape(pack_graph_output(), shapes));
  require(keygraph_cpu_top_k_graph(&shape, storage(inputs[0].get_element_type()), inputs[0].data(), selected,
                                   output.data<int32_t>(), &kParallel));
}

bool KeyGraphAttention::visit_attributes(ov::AttributeVisitor& visitor) {
  // OpenVINO has no optional attributes.
  bool has_scale = scale.has_value(), has_heads = heads.has_value();
  float scale_value = scale.value_or(0);
  int64_t heads_value = heads.value_or(0);
  visitor.on_attribute("onnx_name", onnx_name);
  visitor.on_attribute("has_scale", has_scale);
  visitor.on_attribute("scale", scale_value);
  visitor.on_attribute("has_heads", has_heads);
  visitor.on_attribute("heads", heads_value);
  scale = has_scale ? std::optional(scale_value) : std::nullopt;
  heads = has_heads ? std::optional(heads_value) : std::nullopt;
  return true;
}

std::shared_ptr<ov::Node> KeyGraphAttention::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  const auto copy = std::make_shared<KeyGraphAttention>();
  copy->scale = scale;
  copy->heads = heads;
  return clone(copy, *this, inputs);
}

Operation::Result KeyGraphAttention::infer() const {
  check_types(types_of(input_values(), {0, 1, 2, 4}));
  const ov::element::Type type = get_input_element_type(0);
  const std::vector<ov::PartialShape> inputs = shapes_of(input_values());
  if (!ranks_known(inputs)) return {type, ov::PartialShape::dynamic(inputs[0].rank())};
  attention_shape(heads, inputs);
  return {type, output_shape(key_graph_attention_output(inputs[0].size()), inputs)};
}

void KeyGraphAttention::compute(ov::Tensor& output, const ov::TensorVector& inputs) const {
  check_types(types_of(inputs, {0, 1, 2, 4}));
  const std::vector<ov::Shape> shapes = shapes_of(inputs);
  const keygraph_attention_shape shape = attention_shape(heads, shapes);
  const bool has_bias = inputs.size() > 4 && has_effect(sizes(shapes[4]));
  output.set_shape(output_shape(key_graph_attention_output(shapes[0].size()), shapes));
  require(keygraph_cpu_key_graph_attention(&shape, storage(inputs[0].get_element_type()), inputs[0].data(),
                                           inputs[1].data(), inputs[2].data(), inputs[3].data<const int32_t>(),
                                           has_bias ? inputs[4].data() : nullptr,
                                           scale.value_or(default_scale(shape.channels)), output.data(), &kParallel));
}

}  // namespace keygraph::openvino
