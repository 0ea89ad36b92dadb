// SPDX-License-Identifier: Apache-2.0
#include "checks.h"

#include <initializer_list>
#include <limits>

namespace keygraph {
namespace {

bool valid(keygraph_dtype dtype) {
  return dtype == KEYGRAPH_FLOAT32 || dtype == KEYGRAPH_FLOAT16 || dtype == KEYGRAPH_BFLOAT16;
}

// Whether no size is negative, and the tensor's bytes, at 4 per element, fit in int64.
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

}  // namespace

keygraph_status check(const keygraph_graph_shape* shape, keygraph_dtype dtype) {
  if (!shape) return KEYGRAPH_NULL_POINTER;
  if (!valid(dtype)) return KEYGRAPH_BAD_DTYPE;
  if (!addressable({shape->batch, shape->groups, shape->rows, shape->channels}) ||
      !addressable({shape->batch, shape->groups, shape->nodes, shape->channels}) ||
      !addressable({shape->batch, shape->groups, shape->rows, words_of(shape->nodes)}) ||
      shape->nodes > std::numeric_limits<int32_t>::max())
    return KEYGRAPH_BAD_SHAPE;
  return KEYGRAPH_OK;
}

keygraph_status check(const keygraph_pack_shape* shape, keygraph_dtype dtype, bool numbers) {
  if (!shape) return KEYGRAPH_NULL_POINTER;
  if (!valid(dtype) && (dtype != KEYGRAPH_BOOL || numbers)) return KEYGRAPH_BAD_DTYPE;
  if (!addressable({shape->batch, shape->groups, shape->rows, shape->nodes}) ||
      !addressable({shape->batch, shape->groups, shape->rows}) || shape->nodes > std::numeric_limits<int32_t>::max())
    return KEYGRAPH_BAD_SHAPE;
  return KEYGRAPH_OK;
}

keygraph_status check(const keygraph_attention_shape* shape, keygraph_dtype dtype, bool has_bias) {
  if (!shape) return KEYGRAPH_NULL_POINTER;
  if (!valid(dtype)) return KEYGRAPH_BAD_DTYPE;
  if (!addressable({shape->batch, shape->heads, shape->rows, shape->channels}) ||
      !addressable({shape->batch, shape->heads, shape->nodes, shape->channels}) ||
      !addressable({shape->batch, shape->heads, shape->nodes, shape->value_channels}) ||
      !addressable({shape->batch, shape->heads, shape->rows, shape->value_channels}) ||
      !addressable({shape->batch, shape->heads, shape->rows, words_of(shape->nodes)}) ||
      (has_bias && !addressable({windows_of(*shape), shape->heads, shape->rows, shape->nodes})) ||
      shape->nodes > std::numeric_limits<int32_t>::max())
    return KEYGRAPH_BAD_SHAPE;
  if (shape->groups != 1 && shape->groups != shape->heads) return KEYGRAPH_BAD_GROUPS;
  if (has_bias && shape->batch % windows_of(*shape) != 0) return KEYGRAPH_BAD_WINDOWS;
  return KEYGRAPH_OK;
}

}  // namespace keygraph

extern "C" const char* keygraph_status_message(keygraph_status status) {
  switch (status) {
    case KEYGRAPH_OK:
      return "no error";
    case KEYGRAPH_NULL_POINTER:
      return "a pointer to a tensor that is not empty is null";
    case KEYGRAPH_BAD_SHAPE:
      return "a size is negative or a tensor is too large to address";
    case KEYGRAPH_BAD_DTYPE:
      return "the element type is not supported; choose one of float32, float16, bfloat16, or bool for a mask without "
             "a "
             "threshold";
    case KEYGRAPH_BAD_K:
      return "k must be at least 1";
    case KEYGRAPH_BAD_GROUPS:
      return "the graph's groups must be 1 or the number of heads";
    case KEYGRAPH_OUT_OF_MEMORY:
      return "out of memory: no scratch memory for a thread";
    case KEYGRAPH_BAD_ISA:
      return "the instruction set asked for (KEYGRAPH_CPU_ISA) is unknown or this machine lacks it; "
             "choose one of baseline, avx2, avx512, or leave it unset";
    case KEYGRAPH_NO_DRIVER:
      return "the CUDA driver cannot be used: libcuda.so.1 does not open, there is no GPU, or no context is current";
    case KEYGRAPH_NO_KERNEL:
      return "no kernel in this library fits this GPU and problem";
    case KEYGRAPH_CUDA_FAILED:
      return "a call of the CUDA driver failed";
    case KEYGRAPH_BAD_ALIGNMENT:
      return "a tensor's address is not aligned as its element type, or the variant asked for, needs";
    case KEYGRAPH_BAD_WINDOWS:
      return "the batch must be a multiple of the bias's windows";
  }
  return "unknown status";
}
