// SPDX-License-Identifier: Apache-2.0
//
// Which target a device uses, and which variants can compute a problem on it. Does not use the driver.
#pragma once

#include <cstdint>
#include <vector>

#include "embedded.h"
#include "failure.h"

namespace keygraph::cuda {

// The properties of a call that decide which variants fit. Sizes that the operator does not have are 1.
struct Problem {
  Operator op;
  keygraph_dtype dtype;
  bool bias;        // or PackGraph's threshold
  int64_t windows;  // KeyGraphAttention: batch; the others: batch x groups
  int64_t heads, groups, rows, nodes;
  int64_t channels;  // PackGraph and TopKGraph: nodes, which are the length of its rows
  int64_t value_channels;
  bool heads_last;
  int64_t alignment = 16;  // of the tensors' addresses, in bytes
};

// Of one element.
int64_t bytes_of(keygraph_dtype dtype);

Problem problem_of(const keygraph_graph_shape& shape, keygraph_dtype dtype);
Problem problem_of(const keygraph_pack_shape& shape, keygraph_dtype dtype, bool threshold);
Problem top_k_problem_of(const keygraph_pack_shape& shape, keygraph_dtype dtype);
Problem problem_of(const keygraph_attention_shape& shape, keygraph_dtype dtype, bool bias);

// The target for devices of a compute capability (90 for 9.0), or null. PTX is used only if no machine code runs
// there; ptx_for considers PTX alone.
const Target* target_for(int32_t capability);
const Target* ptx_for(int32_t capability);

// Shared memory available to a block of threads on such devices, in bytes.
int32_t shared_bytes_for(int32_t capability);

struct Usable {
  const Variant* variant;
  const Target* target;
  const Image* image;
};

// The variants of a target that fit in the given shared memory, in the order of preference.
std::vector<Usable> usable_variants(const Target* target, int32_t shared_bytes);

const Variant* variant_of(int32_t number);

// Why a variant cannot compute a problem, in the order of the checks: a later one means that more of it fits.
enum class Misfit {
  kNone,
  kOperator,
  kDtype,
  kBias,
  kChannels,
  kValueChannels,
  kNodes,
  kMultiple,
  kGroups,
  kSize,
  kAlignment
};
Misfit misfit(const Variant& variant, const Problem& problem);
Failure explain(Misfit why, const Variant& variant, const Problem& problem);

// Number of programs that compute a problem.
int64_t grid_of(const Variant& variant, const Problem& problem);

// Throws Failure (KEYGRAPH_NO_KERNEL): "... has no code for compute capability 7.0 ...".
[[noreturn]] void throw_no_target(int32_t capability);

}  // namespace keygraph::cuda
