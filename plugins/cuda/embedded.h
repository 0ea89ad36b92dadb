// SPDX-License-Identifier: Apache-2.0
//
// The embedded tables: the list of variants, and their code for every target. plugins/cuda/compile.py writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "keygraph/types.h"

namespace keygraph::cuda {

enum class Operator { kKeyGraph, kPackGraph, kTopKGraph, kKeyGraphAttention };

// The fields of plugins/triton/variants.py; 0 means no limit, or a block that holds everything.
struct Variant {
  int32_t number;
  const char* name;
  Operator op;
  keygraph_dtype dtype;
  int32_t block_rows, block_value_channels, block_heads;
  int32_t max_channels, max_value_channels, max_nodes, max_groups, channel_multiple;
  bool bias;  // or PackGraph's threshold
};

// In the order of preference.
extern const Variant variants[];
extern const size_t variant_count;

// One variant's code for one target.
struct Image {
  int32_t variant;
  const char* function;
  int32_t parameters;  // including those that Triton appends
  int32_t threads, shared_bytes;
  size_t offset, stored_bytes, bytes;
};

// All code for one compute capability, or PTX (number 1000 + capability). Images are in the order of the variants.
struct Target {
  int32_t number;
  const Image* images;
  size_t image_count;
  const unsigned char* data;
  bool compressed;

  bool is_ptx() const { return number >= 1000; }
  int32_t capability() const { return number % 1000; }
};

// In rising order of their numbers.
extern const Target* const targets[];
extern const size_t target_count;

// An image's code, decompressed, as the driver loads it.
std::vector<char> code_of(const Target& target, const Image& image);

}  // namespace keygraph::cuda
