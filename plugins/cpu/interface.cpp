// SPDX-License-Identifier: Apache-2.0
//
// The C interface on the CPU: checks arguments, splits the work into tasks, and runs them on the host's threads.
#include <atomic>

#include "../common/checks.h"
#include "kernels.h"
#include "keygraph/cpu.h"

namespace keygraph::cpu {
namespace {

template <class Problem>
struct Run {
  const Problem& problem;
  void (*kernel)(const Problem&, size_t, char*);
  size_t scratch_bytes;
  std::atomic<bool> out_of_memory{false};

  static void task(void* argument, size_t index) {
    Run& run = *static_cast<Run*>(argument);
    char* const scratch = thread_scratch(run.scratch_bytes);
    if (scratch)
      run.kernel(run.problem, index, scratch);
    else
      run.out_of_memory = true;
  }
};

template <class Problem>
keygraph_status execute(const Problem& problem, Split split, void (*kernel)(const Problem&, size_t, char*),
                        const keygraph_parallel* parallel) {
  Run<Problem> run{problem, kernel, split.scratch_bytes};
  if (parallel && parallel->run && split.tasks > 1) {
    parallel->run(parallel->context, split.tasks, &Run<Problem>::task, &run);
  } else {
    for (size_t index = 0; index < split.tasks; ++index) Run<Problem>::task(&run, index);
  }
  return run.out_of_memory ? KEYGRAPH_OUT_OF_MEMORY : KEYGRAPH_OK;
}

}  // namespace
}  // namespace keygraph::cpu

using namespace keygraph::cpu;

extern "C" keygraph_status keygraph_cpu_key_graph(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                  const void* query, const void* key, int64_t k, int32_t* graph,
                                                  const keygraph_parallel* parallel) {
  const Kernels* kernels = selected_kernels();
  if (!kernels) return KEYGRAPH_BAD_ISA;
  if (const keygraph_status status = keygraph::check(shape, dtype); status != KEYGRAPH_OK) return status;
  if (k < 1) return KEYGRAPH_BAD_K;
  if (shape->batch * shape->groups == 0 || shape->rows == 0 || shape->nodes == 0) return KEYGRAPH_OK;
  if (!graph || (shape->channels != 0 && (!query || !key))) return KEYGRAPH_NULL_POINTER;
  const GraphProblem problem{shape->batch * shape->groups,
                             shape->rows,
                             shape->nodes,
                             shape->channels,
                             keygraph::words_of(shape->nodes),
                             dtype,
                             query,
                             key,
                             k,
                             graph};
  return execute(problem, kernels->graph_split(problem), kernels->graph_task, parallel);
}

extern "C" keygraph_status keygraph_cpu_pack_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                   const void* mask, const void* threshold, int32_t* graph,
                                                   const keygraph_parallel* parallel) {
  const Kernels* kernels = selected_kernels();
  if (!kernels) return KEYGRAPH_BAD_ISA;
  if (const keygraph_status status = keygraph::check(shape, dtype, threshold != nullptr); status != KEYGRAPH_OK)
    return status;
  const int64_t rows = shape->batch * shape->groups * shape->rows;
  if (rows == 0 || shape->nodes == 0) return KEYGRAPH_OK;
  if (!mask || !graph) return KEYGRAPH_NULL_POINTER;
  const PackProblem problem{rows, shape->nodes, keygraph::words_of(shape->nodes), dtype, mask, threshold, graph};
  return execute(problem, kernels->pack_split(problem), kernels->pack_task, parallel);
}

extern "C" keygraph_status keygraph_cpu_top_k_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                    const void* scores, int64_t k, int32_t* graph,
                                                    const keygraph_parallel* parallel) {
  const Kernels* kernels = selected_kernels();
  if (!kernels) return KEYGRAPH_BAD_ISA;
  if (const keygraph_status status = keygraph::check(shape, dtype, true); status != KEYGRAPH_OK) return status;
  if (k < 1) return KEYGRAPH_BAD_K;
  const int64_t rows = shape->batch * shape->groups * shape->rows;
  if (rows == 0 || shape->nodes == 0) return KEYGRAPH_OK;
  if (!scores || !graph) return KEYGRAPH_NULL_POINTER;
  const TopKProblem problem{rows, shape->nodes, keygraph::words_of(shape->nodes), dtype, scores, k, graph};
  return execute(problem, kernels->top_k_split(problem), kernels->top_k_task, parallel);
}

extern "C" keygraph_status keygraph_cpu_key_graph_attention(const keygraph_attention_shape* shape, keygraph_dtype dtype,
                                                            const void* q, const void* k, const void* v,
                                                            const int32_t* graph, const void* bias, float scale,
                                                            void* output, const keygraph_parallel* parallel) {
  const Kernels* kernels = selected_kernels();
  if (!kernels) return KEYGRAPH_BAD_ISA;
  if (const keygraph_status status = keygraph::check(shape, dtype, bias != nullptr); status != KEYGRAPH_OK)
    return status;
  if (shape->batch == 0 || shape->heads == 0 || shape->rows == 0 || shape->value_channels == 0) return KEYGRAPH_OK;
  if (!output || (shape->nodes != 0 && (!graph || !v || (shape->channels != 0 && (!q || !k)))))
    return KEYGRAPH_NULL_POINTER;
  const AttentionProblem problem{shape->batch,
                                 shape->heads,
                                 shape->groups,
                                 shape->rows,
                                 shape->nodes,
                                 shape->channels,
                                 shape->value_channels,
                                 keygraph::words_of(shape->nodes),
                                 shape->heads_last != 0,
                                 keygraph::windows_of(*shape),
                                 dtype,
                                 q,
                                 k,
                                 v,
                                 graph,
                                 bias,
                                 scale,
                                 output};
  return execute(problem, kernels->attention_split(problem), kernels->attention_task, parallel);
}
