// SPDX-License-Identifier: Apache-2.0
//
// The operators on NVIDIA GPUs, on the provider's stream. k stays on the device, so its value cannot be checked here.
#include <string>

#include "keygraph/cuda.h"
#include "provider.h"
#include "status.h"

namespace keygraph::ort {
namespace {

keygraph_stream stream_of(const Node& node, const OrtKernelContext* context) {
  void* stream = nullptr;
  check(node.api->KernelContext_GetGPUComputeStream(context, &stream));
  return stream;
}

void require(keygraph_status status) {
  if (status == KEYGRAPH_OK) return;
  const bool is_input =
      status == KEYGRAPH_BAD_SHAPE || status == KEYGRAPH_NULL_POINTER || status == KEYGRAPH_BAD_GROUPS;
  throw Error{is_input ? kInvalidArgument : kFail,
              std::string(keygraph_status_message(status)) + ": " + keygraph_cuda_error()};
}

void key_graph(const Node& node, OrtKernelContext* context, const GraphCall& call) {
  require(keygraph_cuda_key_graph(&call.shape, node.dtype, call.query, call.key, call.k, call.graph, KEYGRAPH_AUTOMATIC,
                                  stream_of(node, context)));
}

void pack_graph(const Node& node, OrtKernelContext* context, const PackCall& call) {
  require(keygraph_cuda_pack_graph(&call.shape, node.dtype, call.mask, call.threshold, call.graph, KEYGRAPH_AUTOMATIC,
                                   stream_of(node, context)));
}

void top_k_graph(const Node& node, OrtKernelContext* context, const TopKCall& call) {
  require(keygraph_cuda_top_k_graph(&call.shape, node.dtype, call.scores, call.k, call.graph, KEYGRAPH_AUTOMATIC,
                                    stream_of(node, context)));
}

void key_graph_attention(const Node& node, OrtKernelContext* context, const AttentionCall& call) {
  require(keygraph_cuda_key_graph_attention(&call.shape, node.dtype, call.q, call.k, call.v, call.graph, call.bias,
                                            call.scale, call.output, KEYGRAPH_AUTOMATIC, stream_of(node, context)));
}

}  // namespace

const Provider cuda_provider{"CUDAExecutionProvider", key_graph, pack_graph, top_k_graph, key_graph_attention};

}  // namespace keygraph::ort
