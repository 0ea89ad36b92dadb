/* SPDX-License-Identifier: Apache-2.0
 *
 * The operators on NVIDIA GPUs: kernels compiled ahead of time, embedded in the library, started through the CUDA
 * driver API. libcuda is opened when the first call needs it; nothing links against CUDA.
 *
 * All tensors, k too, are in memory of the device whose context is current. Calls only enqueue work on `stream`: they
 * never wait for the device, allocate no device memory, and may be captured in a CUDA graph once the kernel has been
 * loaded (keygraph_cuda_prepare, or any earlier call with the same shape in the same context). Safe from any thread.
 *
 * Every address must be a multiple of its element's size; some variants, which the automatic choice then passes over, ask
 * for more, at most 16 bytes: a tensor's start always will do, a slice of one may not (KEYGRAPH_BAD_ALIGNMENT).
 */
#ifndef KEYGRAPH_CUDA_H
#define KEYGRAPH_CUDA_H

#include "keygraph/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A CUstream, which is also a cudaStream_t; null is the default stream. */
typedef void* keygraph_stream;

/* A kernel with its block sizes, from 1; the same numbers on every device and in every build of one version.
 * KEYGRAPH_AUTOMATIC lets the library choose. */
typedef int32_t keygraph_variant;
#define KEYGRAPH_AUTOMATIC 0

/* graph = as keygraph_cpu_key_graph; `k` points to one int64 on the device. k < 1 cannot be reported from there: it
 * keeps one node. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_key_graph(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                        const void* query, const void* key, const int64_t* k,
                                                        int32_t* graph, keygraph_variant variant,
                                                        keygraph_stream stream);

/* output = as keygraph_cpu_key_graph_attention; `bias` may be null. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_key_graph_attention(const keygraph_attention_shape* shape,
                                                                  keygraph_dtype dtype, const void* q, const void* k,
                                                                  const void* v, const int32_t* graph, const void* bias,
                                                                  float scale, void* output, keygraph_variant variant,
                                                                  keygraph_stream stream);

/* The variants that can compute this problem on devices of compute capability `capability` (90 for 9.0; 0: the current
 * context's device), the automatic choice first. Writes at most `capacity` and returns how many there are, which may be
 * more; 0 where there is none, and keygraph_cuda_error says why. Needs no device unless `capability` is 0. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_key_graph_variants(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                         int32_t capability, keygraph_variant* variants,
                                                         int32_t capacity);
KEYGRAPH_EXPORT int32_t keygraph_cuda_key_graph_attention_variants(const keygraph_attention_shape* shape,
                                                                   keygraph_dtype dtype, int32_t has_bias,
                                                                   int32_t capability, keygraph_variant* variants,
                                                                   int32_t capacity);

/* The variant's name, such as "attention_dense_f16_d32"; null where there is no such variant. */
KEYGRAPH_EXPORT const char* keygraph_cuda_variant_name(keygraph_variant variant);

/* Loads a variant's kernel into the current context, so that nothing is loaded at the first call. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_prepare(keygraph_variant variant);

/* What the library was built for: compute capabilities in rising order, 1000 + c for PTX of capability c, which newer
 * devices compile when it is loaded. Writes at most `capacity` and returns how many there are. Needs no device. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_targets(int32_t* targets, int32_t capacity);

/* The one of keygraph_cuda_targets that a device of compute capability `capability` uses (0: the current context's
 * device); 0 where none fits. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_target(int32_t capability);

/* What went wrong in this thread's last call that failed: one line, with CUDA's own word for it where it has one.
 * Lives until the thread's next call. */
KEYGRAPH_EXPORT const char* keygraph_cuda_error(void);

#ifdef __cplusplus
}
#endif

#endif
