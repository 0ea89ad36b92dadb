// SPDX-License-Identifier: Apache-2.0
//
// The C interface: checks arguments, splits the work, hands it to the host's threads.
#include <atomic>
#include <initializer_list>
#include <limits>

#include "kernels.h"
#include "keygraph/cpu.h"

namespace keygraph::cpu {
namespace {

bool valid(keygraph_dtype dtype) {
  return dtype == KEYGRAPH_FLOAT32 || dtype == KEYGRAPH_FLOAT16 || dtype == KEYGRAPH_BFLOAT16;
}

// False for a negative size or a product that does not fit: every tensor must be addressable.
bool addressable(std::initializer_list<int64_t> sizes) {
  int64_t product = 4;
  bool empty = false;
  for (const int64_t size : sizes) {
    if (size < 0) return false;
    if (size == 0) empty = true;
    if (!empty && __builtin_mul_overflow(product, size, &product)) return false;
  }
  return true;
}

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
  if (!shape) return KEYGRAPH_NULL_POINTER;
  if (!valid(dtype)) return KEYGRAPH_BAD_DTYPE;
  const int64_t words = shape->nodes / 32 + (shape->nodes % 32 != 0);
  if (!addressable({shape->batch, shape->groups, shape->rows, shape->channels}) ||
      !addressable({shape->batch, shape->groups, shape->nodes, shape->channels}) ||
      !addressable({shape->batch, shape->groups, shape->rows, words}) ||
      shape->nodes > std::numeric_limits<int32_t>::max())
    return KEYGRAPH_BAD_SHAPE;
  if (k < 1) return KEYGRAPH_BAD_K;
  if (shape->batch * shape->groups == 0 || shape->rows == 0 || shape->nodes == 0) return KEYGRAPH_OK;
  if (!graph || (shape->channels != 0 && (!query || !key))) return KEYGRAPH_NULL_POINTER;
  const GraphProblem problem{shape->batch * shape->groups, shape->rows, shape->nodes, shape->channels, words, dtype,
                             query, key, k, graph};
  return execute(problem, kernels->graph_split(problem), kernels->graph_task, parallel);
}

extern "C" keygraph_status keygraph_cpu_key_graph_attention(const keygraph_attention_shape* shape,
                                                            keygraph_dtype dtype, const void* q, const void* k,
                                                            const void* v, const int32_t* graph, const void* bias,
                                                            float scale, void* output,
                                                            const keygraph_parallel* parallel) {
  const Kernels* kernels = selected_kernels();
  if (!kernels) return KEYGRAPH_BAD_ISA;
  if (!shape) return KEYGRAPH_NULL_POINTER;
  if (!valid(dtype)) return KEYGRAPH_BAD_DTYPE;
  const int64_t words = shape->nodes / 32 + (shape->nodes % 32 != 0);
  if (!addressable({shape->batch, shape->heads, shape->rows, shape->channels}) ||
      !addressable({shape->batch, shape->heads, shape->nodes, shape->channels}) ||
      !addressable({shape->batch, shape->heads, shape->nodes, shape->value_channels}) ||
      !addressable({shape->batch, shape->heads, shape->rows, shape->value_channels}) ||
      !addressable({shape->batch, shape->heads, shape->rows, words}) ||
      !addressable({bias ? shape->heads : 0, shape->rows, shape->nodes}) ||
      shape->nodes > std::numeric_limits<int32_t>::max())
    return KEYGRAPH_BAD_SHAPE;
  if (shape->groups != 1 && shape->groups != shape->heads) return KEYGRAPH_BAD_GROUPS;
  if (shape->batch == 0 || shape->heads == 0 || shape->rows == 0 || shape->value_channels == 0) return KEYGRAPH_OK;
  if (!output || (shape->nodes != 0 && (!graph || !v || (shape->channels != 0 && (!q || !k)))))
    return KEYGRAPH_NULL_POINTER;
  const AttentionProblem problem{shape->batch, shape->heads, shape->groups, shape->rows, shape->nodes, shape->channels,
                                 shape->value_channels, words, shape->heads_last != 0, dtype, q, k, v, graph, bias,
                                 scale, output};
  return execute(problem, kernels->attention_split(problem), kernels->attention_task, parallel);
}

extern "C" const char* keygraph_status_message(keygraph_status status) {
  switch (status) {
    case KEYGRAPH_OK:
      return "no error";
    case KEYGRAPH_NULL_POINTER:
      return "a pointer to a tensor that is not empty is null";
    case KEYGRAPH_BAD_SHAPE:
      return "a size is negative or a tensor is too large to address";
    case KEYGRAPH_BAD_DTYPE:
      return "the element type is not supported; choose one of float32, float16, bfloat16";
    case KEYGRAPH_BAD_K:
      return "k must be at least 1";
    case KEYGRAPH_BAD_GROUPS:
      return "the graph's groups must be 1 or the number of heads";
    case KEYGRAPH_OUT_OF_MEMORY:
      return "out of memory: no scratch memory for a thread";
    case KEYGRAPH_BAD_ISA:
      return "the instruction set asked for (KEYGRAPH_CPU_ISA) is unknown or this machine lacks it; "
             "choose one of baseline, avx2, avx512, or leave it unset";
  }
  return "unknown status";
}
