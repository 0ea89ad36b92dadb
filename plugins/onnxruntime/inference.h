// SPDX-License-Identifier: Apache-2.0
//
// Shape inference while a model is loaded; dimensions that are not known yet keep their names.
#pragma once

#include "call.h"

namespace keygraph::ort {

// Report what is known of the shape of an operator's output. Throws StatusError.
void infer_shape(const Api* api, const OrtShapeInferContext* context, Operator op);

}  // namespace keygraph::ort
