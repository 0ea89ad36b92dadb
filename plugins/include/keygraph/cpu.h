/* SPDX-License-Identifier: Apache-2.0
 *
 * The operators on the CPU. Each thread that runs a task keeps at most 2 MB of scratch memory until it ends
 * (for windows of up to 16,384 nodes); nothing else is allocated.
 */
#ifndef KEYGRAPH_CPU_H
#define KEYGRAPH_CPU_H

#include "keygraph/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* graph = for each row, the k nodes of largest query . key; ties go to the lowest node, NaN ranks below everything.
 * k >= nodes keeps all nodes, k < 1 is KEYGRAPH_BAD_K. Bit j % 32 of word j / 32 stands for node j. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_key_graph(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                       const void* query, const void* key, int64_t k, int32_t* graph,
                                                       const keygraph_parallel* parallel);

/* output = softmax over the row's selected nodes of (scale * q . k + bias), times v; zeros where nothing is selected.
 * `bias` may be null. The operator's default scale is channels^-1/2: the caller computes it. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_key_graph_attention(const keygraph_attention_shape* shape,
                                                                 keygraph_dtype dtype, const void* q, const void* k,
                                                                 const void* v, const int32_t* graph, const void* bias,
                                                                 float scale, void* output,
                                                                 const keygraph_parallel* parallel);

/* The instruction set in use: "baseline", "avx2" or "avx512"; null where KEYGRAPH_CPU_ISA in the environment names
 * none that this machine has (every operator then returns KEYGRAPH_BAD_ISA). */
KEYGRAPH_EXPORT const char* keygraph_cpu_isa(void);

/* Switches the whole process to a named instruction set, or back to the automatic choice (null); for tests and
 * benchmarks, and not while an operator runs. KEYGRAPH_BAD_ISA leaves the choice as it was. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_select_isa(const char* name);

#ifdef __cplusplus
}
#endif

#endif
