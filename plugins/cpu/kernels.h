// SPDX-License-Identifier: Apache-2.0
//
// Between the C interface and the kernels. One `Kernels` table exists per instruction set, all made from the same text.
// No inline function or template may stand here: the linker would keep one copy of it, perhaps the AVX-512 one.
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

struct AttentionProblem {
  int64_t batch, heads, groups, rows, nodes, channels, value_channels, words;
  bool heads_last;
  keygraph_dtype dtype;
  const void* q;
  const void* k;
  const void* v;
  const int32_t* graph;
  const void* bias;
  float scale;
  void* output;
};

// How a problem is split: a function of the shapes alone, so that results never depend on the threads.
struct Split {
  size_t tasks;
  size_t scratch_bytes;  // per running task
};

struct Kernels {
  const char* name;
  Split (*graph_split)(const GraphProblem& problem);
  void (*graph_task)(const GraphProblem& problem, size_t task, char* scratch);
  Split (*attention_split)(const AttentionProblem& problem);
  void (*attention_task)(const AttentionProblem& problem, size_t task, char* scratch);
};

extern const Kernels kernels_baseline;
#if defined(KEYGRAPH_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

// The table in use, or null where KEYGRAPH_CPU_ISA cannot be had.
const Kernels* selected_kernels();

// Memory of the calling thread, aligned to 64 bytes, kept for its next task; null when there is none to be had.
char* thread_scratch(size_t bytes);

}  // namespace keygraph::cpu
