// SPDX-License-Identifier: Apache-2.0
//
// The kernels loaded into a CUDA context: each is loaded once, when it is first needed.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "driver.h"
#include "select.h"

namespace keygraph::cuda {

struct Kernel {
  CUfunc_st* function;
  const Image* image;
};

class Context {
 public:
  // The context that is current in this thread; throws Failure.
  static std::shared_ptr<Context> current();

  int32_t capability() const { return capability_; }
  const Target* target() const { return target_; }

  // In the order of preference.
  const std::vector<Usable>& usable() const { return usable_; }

  // Loads the kernel at the first call; this context must be current. Throws Failure.
  Kernel kernel(const Usable& usable);

 private:
  explicit Context(const Driver& driver);
  Kernel load(const Usable& usable) const;

  const Driver& driver_;
  int32_t capability_;
  int32_t shared_bytes_;
  const Target* target_;
  std::vector<Usable> usable_;
  std::mutex mutex_;
  std::map<int32_t, Kernel> kernels_;  // by the variant's number
};

}  // namespace keygraph::cuda
