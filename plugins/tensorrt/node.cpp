// SPDX-License-Identifier: Apache-2.0
#include "node.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "log.h"

namespace keygraph::trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

// The version of the fields stored in engines. Older libraries ignore fields that they do not know; a field that they
// must not ignore needs a new version.
constexpr const char* kFormatField = "keygraph_format";
constexpr int32_t kFormat = 1;
constexpr const char* kNameField = "keygraph_node";

template <class Number>
Number number(const PluginField& field, PluginFieldType type, const char* wanted) {
  if (field.type != type || field.length != 1 || !field.data)
    throw OperatorError(KEYGRAPH_BAD_DTYPE, std::string("attribute ") + field.name + " must be " + wanted +
                                                ", got type " + std::to_string(static_cast<int32_t>(field.type)) +
                                                " with " + std::to_string(field.length) + " values");
  Number value;
  std::memcpy(&value, field.data, sizeof value);
  return value;
}

std::string text(const PluginField& field) {
  if (field.type != PluginFieldType::kCHAR || field.length < 0 || (field.length && !field.data))
    throw OperatorError(KEYGRAPH_BAD_DTYPE, std::string("field ") + field.name + " must be text");
  const char* begin = static_cast<const char*>(field.data);
  return std::string(begin, std::find(begin, begin + field.length, '\0'));
}

}  // namespace

Node Node::from_fields(const char* name, const nvinfer1::PluginFieldCollection* fields, nvinfer1::TensorRTPhase phase) {
  const bool serialized = phase == nvinfer1::TensorRTPhase::kRUNTIME;
  Node node;
  node.name = name ? name : "";
  int32_t format = 0;
  const int32_t count = fields && fields->fields ? fields->nbFields : 0;
  for (int32_t i = 0; i < count; ++i) {
    const PluginField& field = fields->fields[i];
    const std::string key = field.name ? field.name : "";
    if (key == "scale") {
      node.scale = number<float>(field, PluginFieldType::kFLOAT32, "one float32");
    } else if (key == "heads") {
      node.heads = number<int32_t>(field, PluginFieldType::kINT32, "one int32");
    } else if (serialized && key == kFormatField) {
      format = number<int32_t>(field, PluginFieldType::kINT32, "one int32");
    } else if (serialized && key == kNameField) {
      node.name = text(field);
    }
  }
  if (node.heads && *node.heads < 1)
    throw OperatorError(KEYGRAPH_BAD_SHAPE,
                        "attribute heads is " + std::to_string(*node.heads) + "; it must be at least 1");
  if (serialized && format != kFormat)
    throw OperatorError(KEYGRAPH_BAD_DTYPE, "the engine holds this plugin in format " + std::to_string(format) +
                                                ", this library reads format " + std::to_string(kFormat) +
                                                "; build the engine again, or use the library that it was built with");
  return node;
}

std::vector<PluginField> Node::fields() const {
  std::vector<PluginField> all;
  all.emplace_back(kFormatField, &kFormat, PluginFieldType::kINT32, 1);
  all.emplace_back(kNameField, name.c_str(), PluginFieldType::kCHAR, static_cast<int32_t>(name.size() + 1));
  if (scale) all.emplace_back("scale", &*scale, PluginFieldType::kFLOAT32, 1);
  if (heads) all.emplace_back("heads", &*heads, PluginFieldType::kINT32, 1);
  return all;
}

std::string Node::attributes() const {
  char number[32] = "default";
  if (scale) std::snprintf(number, sizeof number, "%.9g", static_cast<double>(*scale));
  return std::string("scale=") + number + ";heads=" + (heads ? std::to_string(*heads) : "none");
}

}  // namespace keygraph::trt
