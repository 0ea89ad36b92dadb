// SPDX-License-Identifier: Apache-2.0
//
// The operators on the CPU, with the session's own threads.
#include "../common/operator_shapes.h"
#include "keygraph/cpu.h"
#include "provider.h"
#include "status.h"

namespace keygraph::ort {
namespace {

// The session's own threads behind keygraph_parallel.
struct SessionThreads {
  const Api* api;
  OrtKernelContext* context;
  OrtStatus* status = nullptr;

  static void run(void* self, size_t tasks, void (*task)(void*, size_t), void* argument) {
    SessionThreads& threads = *static_cast<SessionThreads*>(self);
    threads.status = threads.api->KernelContext_ParallelFor(
        threads.context, reinterpret_cast<void (*)(void*, size_t)>(task), tasks, 0, argument);
  }
};

void require(keygraph_status status, const SessionThreads& threads) {
  check(threads.status);
  if (status != KEYGRAPH_OK)
    throw Error{status == KEYGRAPH_OUT_OF_MEMORY ? kFail : kInvalidArgument, keygraph_status_message(status)};
}

void key_graph(const Node& node, OrtKernelContext* context, const GraphCall& call) {
  check_k(*call.k);
  SessionThreads threads{node.api, context};
  const keygraph_parallel parallel{&SessionThreads::run, &threads};
  require(keygraph_cpu_key_graph(&call.shape, node.dtype, call.query, call.key, *call.k, call.graph, &parallel),
          threads);
}

void pack_graph(const Node& node, OrtKernelContext* context, const PackCall& call) {
  SessionThreads threads{node.api, context};
  const keygraph_parallel parallel{&SessionThreads::run, &threads};
  require(keygraph_cpu_pack_graph(&call.shape, node.dtype, call.mask, call.threshold, call.graph, &parallel), threads);
}

void top_k_graph(const Node& node, OrtKernelContext* context, const TopKCall& call) {
  check_k(*call.k);
  SessionThreads threads{node.api, context};
  const keygraph_parallel parallel{&SessionThreads::run, &threads};
  require(keygraph_cpu_top_k_graph(&call.shape, node.dtype, call.scores, *call.k, call.graph, &parallel), threads);
}

void key_graph_attention(const Node& node, OrtKernelContext* context, const AttentionCall& call) {
  SessionThreads threads{node.api, context};
  const keygraph_parallel parallel{&SessionThreads::run, &threads};
  require(keygraph_cpu_key_graph_attention(&call.shape, node.dtype, call.q, call.k, call.v, call.graph, call.bias,
                                           call.scale, call.output, &parallel),
          threads);
}

}  // namespace

const Provider cpu_provider{"CPUExecutionProvider", key_graph, pack_graph, top_k_graph, key_graph_attention};

}  // namespace keygraph::ort
