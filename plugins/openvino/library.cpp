// SPDX-License-Identifier: Apache-2.0
//
// libkeygraph_openvino: what ov::Core::add_extension loads. The operations for models in OpenVINO's own format, and the
// conversions of ONNX nodes of the domain "keygraph".
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "keygraph/cpu.h"
#include "openvino/core/op_extension.hpp"
#include "openvino/frontend/onnx/extension/conversion.hpp"
#include "operators.h"

namespace keygraph::openvino {
namespace {

// A node with its name and inputs, but for an optional input that the ONNX node names "".
template <class Op>
std::shared_ptr<Op> converted(const ov::frontend::NodeContext& node) {
  auto op = std::make_shared<Op>();
  op->onnx_name = node.get_name();
  ov::OutputVector inputs;
  for (size_t i = 0; i < node.get_input_size(); ++i) {
    const ov::Output<ov::Node> input = node.get_input(static_cast<int>(i));
    if (std::string(input.get_node()->get_type_name()) != "NullNode") inputs.push_back(input);
  }
  op->set_arguments(inputs);
  return op;
}

ov::OutputVector key_graph(const ov::frontend::NodeContext& node) {
  const auto op = converted<KeyGraph>(node);
  op->constructor_validate_and_infer_types();
  return op->outputs();
}

ov::OutputVector pack_graph(const ov::frontend::NodeContext& node) {
  const auto op = converted<PackGraph>(node);
  op->constructor_validate_and_infer_types();
  return op->outputs();
}

ov::OutputVector top_k_graph(const ov::frontend::NodeContext& node) {
  const auto op = converted<TopKGraph>(node);
  op->constructor_validate_and_infer_types();
  return op->outputs();
}

ov::OutputVector key_graph_attention(const ov::frontend::NodeContext& node) {
  const auto op = converted<KeyGraphAttention>(node);
  const ov::Any scale = node.get_attribute_as_any("scale");
  if (!scale.empty()) {
    if (scale.is<int64_t>()) throw std::runtime_error("node '" + node.get_name() + "': scale must be a float");
    op->scale = scale.as<float>();
  }
  if (node.has_attribute("heads")) op->heads = node.get_attribute<int64_t>("heads");
  op->constructor_validate_and_infer_types();
  return op->outputs();
}

}  // namespace
}  // namespace keygraph::openvino

OPENVINO_EXTENSION_C_API void create_extensions(std::vector<ov::Extension::Ptr>& extensions) {
  using namespace keygraph::openvino;
  using ov::frontend::onnx::ConversionExtension;
  if (!keygraph_cpu_isa()) throw std::runtime_error(keygraph_status_message(KEYGRAPH_BAD_ISA));
  extensions = {
      std::make_shared<ov::OpExtension<KeyGraph>>(),
      std::make_shared<ov::OpExtension<PackGraph>>(),
      std::make_shared<ov::OpExtension<TopKGraph>>(),
      std::make_shared<ov::OpExtension<KeyGraphAttention>>(),
      std::make_shared<ConversionExtension>("KeyGraph", "keygraph", key_graph),
      std::make_shared<ConversionExtension>("PackGraph", "keygraph", pack_graph),
      std::make_shared<ConversionExtension>("TopKGraph", "keygraph", top_k_graph),
      std::make_shared<ConversionExtension>("KeyGraphAttention", "keygraph", key_graph_attention),
  };
}
