// SPDX-License-Identifier: Apache-2.0
//
// Find and load ONNX Runtime, and keygraph's operator library: nothing here is linked against either.
#pragma once

#include <string>

#include "../plugins/onnxruntime/ort_api.h"

namespace keygraph {

// Return ONNX Runtime's entry point. `path` is its library; empty for the first of the places that runtime.hpp names.
// Throws InputError where there is none.
const ort::ApiBase* load_onnxruntime(const std::string& path);

// Return the installed operator library, or an empty string where there is none.
std::string installed_operators();

}  // namespace keygraph
