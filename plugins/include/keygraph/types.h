/* SPDX-License-Identifier: Apache-2.0
 *
 * What every host of the two operators shares: types, status codes, shapes and the host's threads.
 * Plain C, and no framework's header, so that one adapter per framework is all that a new host needs.
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

/* How numbers are stored; sums are always accumulated in float32. The values are part of the ABI. */
typedef enum keygraph_dtype { KEYGRAPH_FLOAT32 = 1, KEYGRAPH_FLOAT16 = 2, KEYGRAPH_BFLOAT16 = 3 } keygraph_dtype;

/* The values are part of the ABI; `keygraph_status_message` has the sentence for each. */
typedef enum keygraph_status {
  KEYGRAPH_OK = 0,
  KEYGRAPH_NULL_POINTER = 1,
  KEYGRAPH_BAD_SHAPE = 2,
  KEYGRAPH_BAD_DTYPE = 3,
  KEYGRAPH_BAD_K = 4,
  KEYGRAPH_BAD_GROUPS = 5,
  KEYGRAPH_OUT_OF_MEMORY = 6,
  KEYGRAPH_BAD_ISA = 7,
  KEYGRAPH_NO_DRIVER = 8,    /* libcuda cannot be opened, or has no device or no current context */
  KEYGRAPH_NO_KERNEL = 9,    /* no embedded kernel fits the device, or the variant not the problem */
  KEYGRAPH_CUDA_FAILED = 10, /* a call of the driver failed: keygraph_cuda_error */
  KEYGRAPH_BAD_ALIGNMENT = 11
} keygraph_status;

/* query [batch, groups, rows, channels], key [batch, groups, nodes, channels],
 * graph int32 [batch, groups, rows, ceil(nodes / 32)]; all dense and row-major. */
typedef struct keygraph_graph_shape {
  int64_t batch, groups, rows, nodes, channels;
} keygraph_graph_shape;

/* q [batch, heads, rows, channels], k [batch, heads, nodes, channels], v [batch, heads, nodes, value_channels],
 * graph int32 [batch, groups, rows, ceil(nodes / 32)] with groups 1 or heads, bias [heads, rows, nodes],
 * output [batch, heads, rows, value_channels]; all dense and row-major.
 * With `heads_last` other than 0, heads and rows (or nodes) of q, k, v and output change places: [batch, rows, heads,
 * channels], which is what a linear layer makes. */
typedef struct keygraph_attention_shape {
  int64_t batch, heads, groups, rows, nodes, channels, value_channels;
  int64_t heads_last;
} keygraph_attention_shape;

/* The host's threads. `run` calls task(argument, index) once for every index in [0, tasks), in any order and on any
 * threads, and returns when all are done. A null `keygraph_parallel*` means the calling thread alone.
 * Results do not depend on it: the split into tasks comes from the shapes only. */
typedef struct keygraph_parallel {
  void (*run)(void* context, size_t tasks, void (*task)(void* argument, size_t index), void* argument);
  void* context;
} keygraph_parallel;

/* One line for a person; a string that lives as long as the library. */
KEYGRAPH_EXPORT const char* keygraph_status_message(keygraph_status status);

#ifdef __cplusplus
}
#endif

#endif
