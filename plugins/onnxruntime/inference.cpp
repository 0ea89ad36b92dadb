// SPDX-License-Identifier: Apache-2.0
#include "inference.h"

#include <string>
#include <vector>

#include "../common/checks.h"
#include "../common/operator_shapes.h"
#include "status.h"

namespace keygraph::ort {
namespace {

// A shape while the model is loaded: each dimension has a size, a name, or neither.
struct Symbolic {
  std::vector<int64_t> sizes;
  std::vector<std::string> names;
  ElementType type = kUndefined;
  bool known(size_t i) const { return sizes[i] >= 0 || !names[i].empty(); }
};

// An input's shape; without any dimension if the model does not give its rank.
Symbolic input_shape(const Api* api, const OrtShapeInferContext* context, size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // owned by the context
  check(api->ShapeInferContext_GetInputTypeShape(context, index, &info));
  size_t rank = 0;
  check(api->GetDimensionsCount(info, &rank));
  Symbolic shape;
  if (rank < 3) return shape;
  std::vector<const char*> names(rank);
  shape.sizes.resize(rank);
  check(api->GetTensorElementType(info, &shape.type));
  check(api->GetDimensions(info, shape.sizes.data(), rank));
  check(api->GetSymbolicDimensions(info, names.data(), rank));
  for (size_t i = 0; i < rank; ++i) shape.names.emplace_back(shape.sizes[i] < 0 && names[i] ? names[i] : "");
  return shape;
}

void set_output_shape(const Api* api, const OrtShapeInferContext* context, const Symbolic& shape) {
  for (size_t i = 0; i < shape.sizes.size(); ++i)
    if (!shape.known(i)) return;  // ONNX Runtime has no way to express such a dimension
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->CreateTensorTypeAndShapeInfo(&info));
  std::vector<const char*> names;
  for (const std::string& name : shape.names) names.push_back(name.c_str());
  OrtStatus* status = api->SetTensorElementType(info, shape.type);
  if (!status) status = api->SetDimensions(info, shape.sizes.data(), shape.sizes.size());
  if (!status) status = api->SetSymbolicDimensions(info, names.data(), names.size());
  if (!status) status = api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api->ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

}  // namespace

void infer_shape(const Api* api, const OrtShapeInferContext* context, Operator op) {
  // Those that the output's shape depends on.
  const bool of_scores = op == Operator::kPackGraph || op == Operator::kTopKGraph;
  const size_t count = of_scores ? 1 : op == Operator::kKeyGraph ? 2 : 3;
  std::vector<Symbolic> inputs;
  for (size_t i = 0; i < count; ++i) inputs.push_back(input_shape(api, context, i));
  const size_t rank = inputs[0].sizes.size();
  Symbolic output;
  output.type = op == Operator::kKeyGraphAttention ? inputs[0].type : kInt32;
  const std::vector<OutputDimension> dimensions = of_scores                   ? pack_graph_output()
                                                  : op == Operator::kKeyGraph ? key_graph_output()
                                                                              : key_graph_attention_output(rank);
  for (const OutputDimension& dimension : dimensions) {
    const Symbolic& input = inputs[dimension.input];
    if (input.sizes.size() != rank || dimension.axis >= rank) return;
    const int64_t size = input.sizes[dimension.axis];
    const std::string& name = input.names[dimension.axis];
    output.sizes.push_back(dimension.in_words && size >= 0 ? words_of(size) : size);
    output.names.push_back(dimension.in_words && !name.empty() ? "ceil(" + name + "/32)" : name);
  }
  set_output_shape(api, context, output);
}

}  // namespace keygraph::ort
