// SPDX-License-Identifier: Apache-2.0
#include "select.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <string>

#include "../common/checks.h"

namespace keygraph::cuda {
namespace {

constexpr int64_t kInt32 = std::numeric_limits<int32_t>::max();

int64_t blocks(int64_t size, int32_t block) { return block ? size / block + (size % block != 0) : 1; }

const char* name_of(keygraph_dtype dtype) {
  switch (dtype) {
    case KEYGRAPH_FLOAT32:
      return "float32";
    case KEYGRAPH_FLOAT16:
      return "float16";
    case KEYGRAPH_BFLOAT16:
      return "bfloat16";
    case KEYGRAPH_BOOL:
      return "bool";
  }
  return "?";
}

const char* name_of(Operator op) {
  switch (op) {
    case Operator::kKeyGraph:
      return "KeyGraph";
    case Operator::kPackGraph:
      return "PackGraph";
    case Operator::kTopKGraph:
      return "TopKGraph";
    case Operator::kKeyGraphAttention:
      return "KeyGraphAttention";
  }
  return "?";
}

std::string dotted(int32_t capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

// Machine code runs on devices of the same major version and the same or a higher minor version. Exceptions: Triton's
// code for 9.0 and newer uses instructions of exactly that target, and code for embedded devices runs on nothing else.
bool runs_on(int32_t built_for, int32_t capability) {
  const auto apart = [](int32_t c) { return c >= 90 || c == 72 || c == 87; };
  if (built_for == capability) return true;
  return !apart(built_for) && !apart(capability) && built_for / 10 == capability / 10 && built_for < capability;
}

// The product, saturated: only whether it is too large matters.
int64_t product(std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(result, factor, &result)) return std::numeric_limits<int64_t>::max();
  return result;
}

// Kernels use int32 inside one batch index; a block of nodes may end beyond the last node.
bool counts_in_int32(const Problem& problem) {
  const int64_t longest = std::max(problem.rows, problem.nodes) + 4096;
  const int64_t channels = std::max({problem.channels, problem.value_channels, int64_t{1}});
  return problem.windows <= kInt32 && product({problem.heads, longest, channels}) <= kInt32 &&
         product({problem.groups, problem.rows, words_of(problem.nodes)}) <= kInt32;
}

int64_t alignment_needed(const Variant& variant) {
  return std::min<int64_t>(16, variant.channel_multiple * bytes_of(variant.dtype));
}

}  // namespace

int64_t bytes_of(keygraph_dtype dtype) { return dtype == KEYGRAPH_FLOAT32 ? 4 : dtype == KEYGRAPH_BOOL ? 1 : 2; }

Problem problem_of(const keygraph_graph_shape& shape, keygraph_dtype dtype) {
  return {Operator::kKeyGraph, dtype, false, shape.batch * shape.groups, 1, 1, shape.rows, shape.nodes,
          shape.channels,      1,     false};
}

Problem problem_of(const keygraph_pack_shape& shape, keygraph_dtype dtype, bool threshold) {
  return {Operator::kPackGraph, dtype, threshold, shape.batch * shape.groups, 1, 1, shape.rows, shape.nodes,
          shape.nodes,          1,     false};
}

Problem top_k_problem_of(const keygraph_pack_shape& shape, keygraph_dtype dtype) {
  Problem problem = problem_of(shape, dtype, false);
  problem.op = Operator::kTopKGraph;
  return problem;
}

Problem problem_of(const keygraph_attention_shape& shape, keygraph_dtype dtype, bool bias) {
  return {Operator::kKeyGraphAttention,
          dtype,
          bias,
          shape.batch,
          shape.heads,
          shape.groups,
          shape.rows,
          shape.nodes,
          shape.channels,
          shape.value_channels,
          shape.heads_last != 0};
}

const Target* target_for(int32_t capability) {
  const Target* best = nullptr;
  for (size_t i = 0; i < target_count; ++i)
    if (!targets[i]->is_ptx() && runs_on(targets[i]->capability(), capability)) best = targets[i];
  return best ? best : ptx_for(capability);
}

const Target* ptx_for(int32_t capability) {
  const Target* best = nullptr;
  for (size_t i = 0; i < target_count; ++i)
    if (targets[i]->is_ptx() && targets[i]->capability() <= capability) best = targets[i];
  return best;
}

int32_t shared_bytes_for(int32_t capability) {
  switch (capability) {
    case 75:
      return 64 * 1024;
    case 80:
    case 87:
      return 163 * 1024;
    case 90:
    case 100:
    case 101:
    case 103:
    case 110:
      return 227 * 1024;
    default:  // 8.6, 8.9, 12.x; the least that any since 8.0 has had
      return 99 * 1024;
  }
}

std::vector<Usable> usable_variants(const Target* target, int32_t shared_bytes) {
  std::vector<Usable> result;
  if (!target) return result;
  for (size_t i = 0; i < target->image_count; ++i)
    if (const Image& image = target->images[i]; image.shared_bytes <= shared_bytes)
      result.push_back({variant_of(image.variant), target, &image});
  return result;
}

const Variant* variant_of(int32_t number) {
  const Variant* const end = variants + variant_count;
  const Variant* const found = std::find_if(variants, end, [&](const Variant& v) { return v.number == number; });
  return found == end ? nullptr : found;
}

Misfit misfit(const Variant& variant, const Problem& problem) {
  const bool attention = problem.op == Operator::kKeyGraphAttention;
  const auto over = [](int32_t limit, int64_t size) { return limit != 0 && size > limit; };
  if (variant.op != problem.op) return Misfit::kOperator;
  if (variant.dtype != problem.dtype) return Misfit::kDtype;
  if (variant.bias != problem.bias) return Misfit::kBias;
  if (over(variant.max_channels, problem.channels)) return Misfit::kChannels;
  if (attention && over(variant.max_value_channels, problem.value_channels)) return Misfit::kValueChannels;
  if (over(variant.max_nodes, problem.nodes)) return Misfit::kNodes;
  if (problem.channels % variant.channel_multiple != 0 ||
      (attention && problem.value_channels % variant.channel_multiple != 0))
    return Misfit::kMultiple;
  if (over(variant.max_groups, problem.groups)) return Misfit::kGroups;
  if (!counts_in_int32(problem) || grid_of(variant, problem) > kInt32) return Misfit::kSize;
  if (problem.alignment % alignment_needed(variant) != 0) return Misfit::kAlignment;
  return Misfit::kNone;
}

Failure explain(Misfit why, const Variant& variant, const Problem& problem) {
  const auto words = [&]() -> std::string {
    const auto at_most = [](int32_t limit, const char* what, int64_t size) {
      return "at most " + std::to_string(limit) + " " + what + ", there are " + std::to_string(size);
    };
    switch (why) {
      case Misfit::kNone:
        return "it does";
      case Misfit::kOperator:
        return std::string("it is not a variant of ") + name_of(problem.op);
      case Misfit::kDtype:
        return std::string("the tensors are ") + name_of(problem.dtype);
      case Misfit::kBias:
        return std::string(problem.bias ? "it does not support a " : "it needs a ") +
               (problem.op == Operator::kPackGraph ? "threshold" : "bias");
      case Misfit::kChannels:
        return at_most(variant.max_channels, "channels", problem.channels);
      case Misfit::kValueChannels:
        return at_most(variant.max_value_channels, "value channels", problem.value_channels);
      case Misfit::kNodes:
        return at_most(variant.max_nodes, "nodes", problem.nodes);
      case Misfit::kMultiple:
        return std::string(problem.op == Operator::kPackGraph || problem.op == Operator::kTopKGraph ? "nodes"
                                                                                                    : "channels") +
               " must be multiples of " + std::to_string(variant.channel_multiple);
      case Misfit::kGroups:
        return at_most(variant.max_groups, "groups", problem.groups);
      case Misfit::kSize:
        return "there are 2^31 elements or more per batch index, or so many programs";
      case Misfit::kAlignment:
        return "tensors must be at multiples of " + std::to_string(alignment_needed(variant)) +
               " bytes, one is only at a multiple of " + std::to_string(problem.alignment);
    }
    return "";
  };
  return {why == Misfit::kSize        ? KEYGRAPH_BAD_SHAPE
          : why == Misfit::kAlignment ? KEYGRAPH_BAD_ALIGNMENT
                                      : KEYGRAPH_NO_KERNEL,
          std::string(variant.name) + " does not fit: " + words()};
}

int64_t grid_of(const Variant& variant, const Problem& problem) {
  return product({blocks(problem.rows, variant.block_rows),
                  blocks(problem.value_channels, variant.block_value_channels),
                  blocks(problem.heads, variant.block_heads), problem.windows});
}

void throw_no_target(int32_t capability) {
  std::string built;
  for (size_t i = 0; i < target_count; ++i)
    built += (i ? ", " : "") + dotted(targets[i]->capability()) + (targets[i]->is_ptx() ? " (PTX, and newer)" : "");
  throw Failure{KEYGRAPH_NO_KERNEL, "this library has no code for compute capability " + dotted(capability) +
                                        "; it was built for " + built + " (-DKEYGRAPH_CUDA_TARGETS)"};
}

}  // namespace keygraph::cuda
