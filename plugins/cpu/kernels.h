// SPDX-License-Identifier: Apache-2.0
//
// The interface between the C interface and the kernels. One `Kernels` table exists per instruction set, all compiled
// from the same source. Declare no inline function or template here: the linker would keep one copy of it, perhaps the
// AVX-512 one.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "keygraph/types.h"

namespace keygraph::cpu {

struct GraphProblem {
  int64_t windows, rows, nodes, channels, words;
  keygraph_dtype dtype;
  const void* query;
  const void* key;
  int64_t k;
  int32_t* graph;
};

struct PackProblem {
  int64_t rows, nodes, words;  // rows of all windows
  keygraph_dtype dtype;
  const void* mask;
  const void* threshold;
  int32_t* graph;
};

struct TopKProblem {
  int64_t rows, nodes, words;  // rows of all windows
  keygraph_dtype dtype;
  const void* scores;
  int64_t k;
  int32_t* graph;
};

struct AttentionProblem {
  int64_t batch, heads, groups, rows, nodes, channels, value_channels, words;
  bool heads_last;
  int64_t bias_windows;  // at least 1
  keygraph_dtype dtype;
  const void* q;
  const void* k;
  const void* v;
  const int32_t* graph;
  const void* bias;
  float scale;
  void* output;
};

// How a problem is split into tasks. It depends on the shapes only, so that results do not depend on the threads.
struct Split {
  size_t tasks;
  size_t scratch_bytes;  // per running task
};

struct Kernels {
  const char* name;
  Split (*graph_split)(const GraphProblem& problem);
  void (*graph_task)(const GraphProblem& problem, size_t task, char* scratch);
  Split (*pack_split)(const PackProblem& problem);
  void (*pack_task)(const PackProblem& problem, size_t task, char* scratch);
  Split (*top_k_split)(const TopKProblem& problem);
  void (*top_k_task)(const TopKProblem& problem, size_t task, char* scratch);
  Split (*attention_split)(const AttentionProblem& problem);
  void (*attention_task)(const AttentionProblem& problem, size_t task, char* scratch);
};

extern const Kernels kernels_baseline;
#if defined(KEYGRAPH_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

// The table in use, or null if KEYGRAPH_CPU_ISA names an instruction set that is not available.
const Kernels* selected_kernels();

// Memory of the calling thread, aligned to 64 bytes and kept for its next task; null if it cannot be allocated.
char* thread_scratch(size_t bytes);

}  // namespace keygraph::cpu
