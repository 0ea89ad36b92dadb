/* SPDX-License-Identifier: Apache-2.0
 *
 * The operators on NVIDIA GPUs: kernels compiled ahead of time, embedded in the library, and launched through the CUDA
 * driver API. libcuda is opened when it is first needed; the library links against nothing of CUDA.
 *
 * All tensors, including k, are in memory of the device whose context is current. The operators only enqueue work on
 * `stream`: they never wait for the device and allocate no device memory. They may be captured in a CUDA graph once the
 * kernel is loaded, by keygraph_cuda_prepare or by any earlier call with the same shape in the same context.
 *
 * Every address must be a multiple of its element's size. Some variants need more, at most 16 bytes; the automatic
 * choice passes over those whose alignment is not met, and a variant asked for by number returns
 * KEYGRAPH_BAD_ALIGNMENT. The start of an allocation is always aligned; a slice may not be.
 *
 * All functions may be called from any thread, also at the same time. After a call that fails, keygraph_cuda_error
 * returns the message in the same thread.
 */
#ifndef KEYGRAPH_CUDA_H
#define KEYGRAPH_CUDA_H

#include "keygraph/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A CUstream, which is also a cudaStream_t; null is the default stream. */
typedef void* keygraph_stream;

/* A kernel with its block sizes, numbered from 1; a number means the same on every device and in every build.
 * KEYGRAPH_AUTOMATIC lets the library choose. */
typedef int32_t keygraph_variant;
#define KEYGRAPH_AUTOMATIC 0

/* KeyGraph, as keygraph_cpu_key_graph.
 *
 *   shape, dtype, query, key, graph  as for keygraph_cpu_key_graph, on the device
 *   k        one int64 on the device. Its value cannot be checked: below 1 it selects one node
 *   variant  KEYGRAPH_AUTOMATIC, or one of keygraph_cuda_key_graph_variants
 *   stream   where the work is enqueued
 *
 * Returns KEYGRAPH_OK, KEYGRAPH_NULL_POINTER, KEYGRAPH_BAD_SHAPE, KEYGRAPH_BAD_DTYPE, KEYGRAPH_BAD_ALIGNMENT,
 * KEYGRAPH_NO_DRIVER, KEYGRAPH_NO_KERNEL or KEYGRAPH_CUDA_FAILED. Errors of the kernel itself appear later, in whatever
 * waits for the stream. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_key_graph(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                        const void* query, const void* key, const int64_t* k,
                                                        int32_t* graph, keygraph_variant variant,
                                                        keygraph_stream stream);

/* PackGraph, as keygraph_cpu_pack_graph.
 *
 *   shape, dtype, mask, threshold, graph  as for keygraph_cpu_pack_graph, tensors on the device
 *   variant  KEYGRAPH_AUTOMATIC, or one of keygraph_cuda_pack_graph_variants
 *   stream   where the work is enqueued
 *
 * Returns what keygraph_cuda_key_graph does. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_pack_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                         const void* mask, const void* threshold, int32_t* graph,
                                                         keygraph_variant variant, keygraph_stream stream);

/* TopKGraph, as keygraph_cpu_top_k_graph.
 *
 *   shape, dtype, scores, graph  as for keygraph_cpu_top_k_graph, tensors on the device
 *   k        one int64 on the device. Its value cannot be checked: below 1 it selects one node
 *   variant  KEYGRAPH_AUTOMATIC, or one of keygraph_cuda_top_k_graph_variants
 *   stream   where the work is enqueued
 *
 * Returns what keygraph_cuda_key_graph does. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_top_k_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                          const void* scores, const int64_t* k, int32_t* graph,
                                                          keygraph_variant variant, keygraph_stream stream);

/* KeyGraphAttention, as keygraph_cpu_key_graph_attention.
 *
 *   shape, dtype, q, k, v, graph, bias, scale, output  as for keygraph_cpu_key_graph_attention, tensors on the device
 *   variant  KEYGRAPH_AUTOMATIC, or one of keygraph_cuda_key_graph_attention_variants
 *   stream   where the work is enqueued
 *
 * Returns what keygraph_cuda_key_graph does, KEYGRAPH_BAD_GROUPS, or KEYGRAPH_BAD_WINDOWS. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_key_graph_attention(const keygraph_attention_shape* shape,
                                                                  keygraph_dtype dtype, const void* q, const void* k,
                                                                  const void* v, const int32_t* graph, const void* bias,
                                                                  float scale, void* output, keygraph_variant variant,
                                                                  keygraph_stream stream);

/* List the variants that can compute a problem, the automatic choice first.
 *
 *   shape, dtype  the problem
 *   capability    compute capability of the device, 90 for 9.0; 0 for the current context's device
 *   variants      output, up to `capacity` numbers; may be null if `capacity` is 0
 *   capacity      size of `variants`
 *
 * Returns the number of variants, which may exceed `capacity`; 0 if there is none or on an error, for which see
 * keygraph_cuda_error. Needs no device unless `capability` is 0. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_key_graph_variants(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                         int32_t capability, keygraph_variant* variants,
                                                         int32_t capacity);

/* The same for PackGraph; `has_threshold` is 0 for a problem without a threshold. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_pack_graph_variants(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                          int32_t has_threshold, int32_t capability,
                                                          keygraph_variant* variants, int32_t capacity);

/* The same for TopKGraph. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_top_k_graph_variants(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                           int32_t capability, keygraph_variant* variants,
                                                           int32_t capacity);

/* The same for KeyGraphAttention; `has_bias` is 0 for a problem without a bias. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_key_graph_attention_variants(const keygraph_attention_shape* shape,
                                                                   keygraph_dtype dtype, int32_t has_bias,
                                                                   int32_t capability, keygraph_variant* variants,
                                                                   int32_t capacity);

/* Return a variant's name, such as "attention_dense_f16_d32", valid as long as the library is loaded; null if there is
 * no such variant. */
KEYGRAPH_EXPORT const char* keygraph_cuda_variant_name(keygraph_variant variant);

/* Load a variant's kernel into the current context, so that its first call does not. Returns KEYGRAPH_OK,
 * KEYGRAPH_NO_DRIVER, KEYGRAPH_NO_KERNEL or KEYGRAPH_CUDA_FAILED. */
KEYGRAPH_EXPORT keygraph_status keygraph_cuda_prepare(keygraph_variant variant);

/* List what the library was built for, in rising order: compute capabilities such as 90, and 1000 + c for PTX of
 * capability c, which newer devices compile when they load it. Writes up to `capacity` numbers to `targets` and returns
 * how many there are. Needs no device. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_targets(int32_t* targets, int32_t capacity);

/* Return the one of keygraph_cuda_targets that a device of compute capability `capability` uses, or 0 if none fits. A
 * `capability` of 0 stands for the current context's device. */
KEYGRAPH_EXPORT int32_t keygraph_cuda_target(int32_t capability);

/* Return the message of this thread's last call that failed: one line, with the driver's own error where there is one;
 * empty if none has failed. Valid until the thread's next call. */
KEYGRAPH_EXPORT const char* keygraph_cuda_error(void);

#ifdef __cplusplus
}
#endif

#endif
