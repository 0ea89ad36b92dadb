// SPDX-License-Identifier: Apache-2.0
//
// The output's shape at the time a model is loaded, with the names of sizes that are not known yet.
#pragma once

#include "ort_api.h"

namespace keygraph::ort {

// Says what is known of a KeyGraph's, or else a KeyGraphAttention's output; throws Error or StatusError.
void infer_shape(const Api* api, const OrtShapeInferContext* context, bool is_graph);

}  // namespace keygraph::ort
