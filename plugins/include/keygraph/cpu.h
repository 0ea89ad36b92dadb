/* SPDX-License-Identifier: Apache-2.0
 *
 * The operators on the CPU.
 *
 * All functions may be called from any thread, also at the same time, except keygraph_cpu_select_isa. Each thread that
 * runs a task keeps at most 2 MB of scratch memory until it ends (for windows of up to 16,384 nodes); nothing else is
 * allocated. Results do not depend on the number of threads.
 */
#ifndef KEYGRAPH_CPU_H
#define KEYGRAPH_CPU_H

#include "keygraph/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* KeyGraph: for each row, select the k nodes with the largest query . key. Ties go to the lowest node index, NaN ranks
 * below everything. Sums are accumulated in float32.
 *
 *   shape     sizes of the tensors below
 *   dtype     element type of query and key
 *   query     [batch, groups, rows, channels]
 *   key       [batch, groups, nodes, channels]; may be the same pointer as query
 *   k         number of nodes to select, at least 1; k >= nodes selects all
 *   graph     output, [batch, groups, rows, ceil(nodes / 32)]: bit j % 32 of word j / 32 says that the row selects node
 *             j; bits past the last node are 0
 *   parallel  the host's threads, or null for the calling thread alone
 *
 * Pointers of tensors without elements may be null. Returns KEYGRAPH_OK, KEYGRAPH_NULL_POINTER, KEYGRAPH_BAD_SHAPE,
 * KEYGRAPH_BAD_DTYPE, KEYGRAPH_BAD_K, KEYGRAPH_BAD_ISA, or KEYGRAPH_OUT_OF_MEMORY, after which the content of `graph`
 * is undefined. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_key_graph(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                       const void* query, const void* key, int64_t k, int32_t* graph,
                                                       const keygraph_parallel* parallel);

/* PackGraph: for each row, select the nodes that a mask marks, or whose score is not below the row's threshold.
 *
 *   shape      sizes of the tensors below
 *   dtype      element type of mask and threshold; KEYGRAPH_BOOL only without a threshold
 *   mask       [batch, groups, rows, nodes]. Without a threshold, elements that are not zero are selected: NaN is not
 *              zero, -0 is. With one, elements that are equal or larger; a NaN on either side selects nothing
 *   threshold  [batch, groups, rows, 1], or null for none
 *   graph      output, [batch, groups, rows, ceil(nodes / 32)] as from keygraph_cpu_key_graph
 *   parallel   the host's threads, or null for the calling thread alone
 *
 * Pointers of tensors without elements may be null. Returns KEYGRAPH_OK, KEYGRAPH_NULL_POINTER, KEYGRAPH_BAD_SHAPE,
 * KEYGRAPH_BAD_DTYPE, KEYGRAPH_BAD_ISA, or KEYGRAPH_OUT_OF_MEMORY, after which the content of `graph` is undefined. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_pack_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                        const void* mask, const void* threshold, int32_t* graph,
                                                        const keygraph_parallel* parallel);

/* TopKGraph: for each row, select the k nodes with the largest scores. Ties go to the lowest node index, NaN ranks below
 * everything.
 *
 *   shape     sizes of the tensors below
 *   dtype     element type of scores; not KEYGRAPH_BOOL
 *   scores    [batch, groups, rows, nodes]
 *   k         number of nodes to select, at least 1; k >= nodes selects all
 *   graph     output, [batch, groups, rows, ceil(nodes / 32)] as from keygraph_cpu_key_graph
 *   parallel  the host's threads, or null for the calling thread alone
 *
 * Pointers of tensors without elements may be null. Returns what keygraph_cpu_key_graph does. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_top_k_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                         const void* scores, int64_t k, int32_t* graph,
                                                         const keygraph_parallel* parallel);

/* KeyGraphAttention: for each row, the softmax over its selected nodes of scale * q . k + bias, times v. A row that
 * selects nothing is zeros. Sums are accumulated in float32.
 *
 *   shape     sizes of the tensors below; with shape->heads_last, [batch, rows or nodes, heads, ...] instead
 *   dtype     element type of q, k, v, bias and output
 *   q         [batch, heads, rows, channels]
 *   k         [batch, heads, nodes, channels]
 *   v         [batch, heads, nodes, value_channels]
 *   graph     [batch, groups, rows, ceil(nodes / 32)] as from keygraph_cpu_key_graph, groups being 1 or heads; bits
 *             past the last node are ignored
 *   bias      [heads, rows, nodes], or with shape->bias_windows one per window before that; null for none
 *   scale     factor of the products; the operator's default, channels^-1/2, is computed by the caller
 *   output    [batch, heads, rows, value_channels]
 *   parallel  the host's threads, or null for the calling thread alone
 *
 * Pointers of tensors without elements may be null. Returns KEYGRAPH_OK, KEYGRAPH_NULL_POINTER, KEYGRAPH_BAD_SHAPE,
 * KEYGRAPH_BAD_DTYPE, KEYGRAPH_BAD_GROUPS, KEYGRAPH_BAD_WINDOWS, KEYGRAPH_BAD_ISA, or KEYGRAPH_OUT_OF_MEMORY, after
 * which the content of `output` is undefined. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_key_graph_attention(const keygraph_attention_shape* shape,
                                                                 keygraph_dtype dtype, const void* q, const void* k,
                                                                 const void* v, const int32_t* graph, const void* bias,
                                                                 float scale, void* output,
                                                                 const keygraph_parallel* parallel);

/* Return the instruction set in use: "baseline", "avx2" or "avx512". Null if the environment variable KEYGRAPH_CPU_ISA
 * names one that does not exist or that this machine lacks; every operator then returns KEYGRAPH_BAD_ISA. */
KEYGRAPH_EXPORT const char* keygraph_cpu_isa(void);

/* Switch the whole process to the named instruction set, or back to the automatic choice if `name` is null. For tests
 * and benchmarks; must not be called while an operator runs. Returns KEYGRAPH_OK, or KEYGRAPH_BAD_ISA, which leaves the
 * choice as it was. */
KEYGRAPH_EXPORT keygraph_status keygraph_cpu_select_isa(const char* name);

#ifdef __cplusplus
}
#endif

#endif
