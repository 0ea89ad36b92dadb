// SPDX-License-Identifier: Apache-2.0
//
// The operators on one of ONNX Runtime's execution providers. All tensors, including k, are in the
// provider's memory.
#pragma once

#include "call.h"

namespace keygraph::ort {

// The functions throw OperatorError, Error or StatusError.
struct Provider {
  const char* name;
  void (*key_graph)(const Node& node, OrtKernelContext* context, const GraphCall& call);
  void (*pack_graph)(const Node& node, OrtKernelContext* context, const PackCall& call);
  void (*top_k_graph)(const Node& node, OrtKernelContext* context, const TopKCall& call);
  void (*key_graph_attention)(const Node& node, OrtKernelContext* context, const AttentionCall& call);
};

extern const Provider cpu_provider;
extern const Provider cuda_provider;  // only where the library is built with the GPU's kernels: KEYGRAPH_WITH_CUDA

}  // namespace keygraph::ort
