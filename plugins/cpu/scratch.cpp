// SPDX-License-Identifier: Apache-2.0
//
// Scratch memory per thread. Allocating it in every task would cost page faults that take as long as the task itself.
#include <cstdlib>

#include "kernels.h"

namespace keygraph::cpu {
namespace {

constexpr size_t kAlignment = 64;

struct Scratch {
  char* memory = nullptr;
  size_t size = 0;
  ~Scratch() { std::free(memory); }
};

thread_local Scratch scratch;

}  // namespace

char* thread_scratch(size_t bytes) {
  if (bytes > scratch.size) {
    std::free(scratch.memory);
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    scratch.memory = static_cast<char*>(std::aligned_alloc(kAlignment, rounded));
    scratch.size = scratch.memory ? rounded : 0;
  }
  return scratch.memory;
}

}  // namespace keygraph::cpu
