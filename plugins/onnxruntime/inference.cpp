// SPDX-License-Identifier: Apache-2.0
#include "inference.h"

#include <string>
#include <vector>

#include "../checks.h"
#include "status.h"

namespace keygraph::ort {
namespace {

// A shape at the time a model is loaded: sizes that are known, or named, or neither.
struct Symbolic {
  std::vector<int64_t> sizes;
  std::vector<std::string> names;
  ElementType type = kUndefined;
  bool known(size_t i) const { return sizes[i] >= 0 || !names[i].empty(); }
};

// All sizes, or none where the model does not say how many there are.
Symbolic input_shape(const Api* api, const OrtShapeInferContext* context, size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
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
    if (!shape.known(i)) return;  // a size without a name cannot be said
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

void infer_shape(const Api* api, const OrtShapeInferContext* context, bool is_graph) {
  Symbolic shape = input_shape(api, context, 0);
  const Symbolic other = input_shape(api, context, is_graph ? 1 : 2);
  if (shape.sizes.empty() || other.sizes.size() != shape.sizes.size()) return;
  if (is_graph) {
    if (shape.sizes.size() != 4) return;
    const int64_t nodes = other.sizes[2];
    shape.sizes[3] = nodes >= 0 ? words_of(nodes) : -1;
    shape.names[3] = nodes >= 0 || other.names[2].empty() ? "" : "ceil(" + other.names[2] + "/32)";
  } else {
    shape.sizes.back() = other.sizes.back();
    shape.names.back() = other.names.back();
  }
  if (is_graph) shape.type = kInt32;
  set_output_shape(api, context, shape);
}

}  // namespace keygraph::ort
