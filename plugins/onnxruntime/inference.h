// SPDX-License-Identifier: Apache-2.0
//
// Shape inference while a model is loaded; dimensions that are not known yet keep their names.
#pragma once

#include "ort_api.h"

namespace keygraph::ort {

// Report what is known of the output's shape, of KeyGraph if `is_graph`, else of KeyGraphAttention. Throws StatusError.
void infer_shape(const Api* api, const OrtShapeInferContext* context, bool is_graph);

}  // namespace keygraph::ort
