/* SPDX-License-Identifier: Apache-2.0
 *
 * Types of the C interface of the operators KeyGraph, PackGraph, TopKGraph and KeyGraphAttention: element types, status
 * codes, shapes, and the host's threads. Plain C without any framework's header: a new host needs one adapter. The
 * values of enumerations and the layouts of structures are part of the ABI; values are only ever appended.
 */
#ifndef KEYGRAPH_TYPES_H
#define KEYGRAPH_TYPES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define KEYGRAPH_EXPORT __attribute__((visibility("default")))
#else
#define KEYGRAPH_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Element type of tensors; sums are always accumulated in float32. */
typedef enum keygraph_dtype {
  KEYGRAPH_FLOAT32 = 1,  /* IEEE 754 binary32 */
  KEYGRAPH_FLOAT16 = 2,  /* IEEE 754 binary16 */
  KEYGRAPH_BFLOAT16 = 3, /* the upper half of a binary32 */
  KEYGRAPH_BOOL = 4      /* one byte, 0 is false; only for the mask of PackGraph without a threshold */
} keygraph_dtype;

/* Result of a call; keygraph_status_message has a message for each. */
typedef enum keygraph_status {
  KEYGRAPH_OK = 0,
  KEYGRAPH_NULL_POINTER = 1,   /* a pointer to a tensor with elements, or to the shape, is null */
  KEYGRAPH_BAD_SHAPE = 2,      /* a size is negative, or a tensor is too large to address */
  KEYGRAPH_BAD_DTYPE = 3,      /* not a keygraph_dtype */
  KEYGRAPH_BAD_K = 4,          /* k is below 1 */
  KEYGRAPH_BAD_GROUPS = 5,     /* the graph's groups are neither 1 nor the number of heads */
  KEYGRAPH_OUT_OF_MEMORY = 6,  /* no scratch memory for a thread */
  KEYGRAPH_BAD_ISA = 7,        /* the instruction set is unknown, or this machine lacks it */
  KEYGRAPH_NO_DRIVER = 8,      /* libcuda cannot be opened, or has no device or no current context */
  KEYGRAPH_NO_KERNEL = 9,      /* no embedded kernel fits the device, or the variant does not fit the problem */
  KEYGRAPH_CUDA_FAILED = 10,   /* a call of the driver failed: keygraph_cuda_error */
  KEYGRAPH_BAD_ALIGNMENT = 11, /* an address is not a multiple of what its element type or the variant needs */
  KEYGRAPH_BAD_WINDOWS = 12    /* the batch is not a multiple of the bias's windows */
} keygraph_status;

/* Sizes of KeyGraph's tensors, which are dense and row-major: query [batch, groups, rows, channels],
 * key [batch, groups, nodes, channels], graph int32 [batch, groups, rows, ceil(nodes / 32)]. Sizes may be 0. */
typedef struct keygraph_graph_shape {
  int64_t batch, groups, rows, nodes, channels;
} keygraph_graph_shape;

/* Sizes of PackGraph's and TopKGraph's tensors, which are dense and row-major: mask or scores
 * [batch, groups, rows, nodes], threshold [batch, groups, rows, 1], graph int32 [batch, groups, rows, ceil(nodes / 32)]. Sizes may be 0. */
typedef struct keygraph_pack_shape {
  int64_t batch, groups, rows, nodes;
} keygraph_pack_shape;

/* Sizes of KeyGraphAttention's tensors, which are dense and row-major: q [batch, heads, rows, channels],
 * k [batch, heads, nodes, channels], v [batch, heads, nodes, value_channels],
 * graph int32 [batch, groups, rows, ceil(nodes / 32)] with groups 1 or heads, bias [heads, rows, nodes],
 * output [batch, heads, rows, value_channels]. Sizes may be 0.
 * If `heads_last` is not 0, q, k, v and output are [batch, rows or nodes, heads, channels] instead, as linear layers
 * produce them. If `bias_windows` is not 0, the bias is [bias_windows, heads, rows, nodes], of which element b of the
 * batch uses b % bias_windows; the batch must be a multiple of it. It is ignored where there is no bias. */
typedef struct keygraph_attention_shape {
  int64_t batch, heads, groups, rows, nodes, channels, value_channels;
  int64_t heads_last;
  int64_t bias_windows;
} keygraph_attention_shape;

/* The host's threads. `run` must call task(argument, index) once for every index in [0, tasks), in any order and on any
 * threads, and return when all calls are done; it gets `context` as its first argument. Results do not depend on the
 * threads: the split into tasks depends on the shapes only. */
typedef struct keygraph_parallel {
  void (*run)(void* context, size_t tasks, void (*task)(void* argument, size_t index), void* argument);
  void* context;
} keygraph_parallel;

/* Return the message of a status: one line, valid as long as the library is loaded. */
KEYGRAPH_EXPORT const char* keygraph_status_message(keygraph_status status);

#ifdef __cplusplus
}
#endif

#endif
