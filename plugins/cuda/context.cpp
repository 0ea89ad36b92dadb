// SPDX-License-Identifier: Apache-2.0
#include "context.h"

#include <algorithm>

namespace keygraph::cuda {
namespace {

int attribute(const Driver& driver, int device, DeviceAttribute which) {
  int value = 0;
  check(driver, driver.DeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

}  // namespace

std::shared_ptr<Context> Context::current() {
  const Driver& driver = cuda::driver();
  CUctx_st* handle = nullptr;
  check(driver, driver.CtxGetCurrent(&handle), "cuCtxGetCurrent");
  if (!handle) throw Failure{KEYGRAPH_NO_DRIVER, "no CUDA context is current in this thread"};
  // A new context may have the address of a destroyed one, with nothing loaded in it. Ids are unique.
  unsigned long long id = 0;
  if (driver.CtxGetId) check(driver, driver.CtxGetId(handle, &id), "cuCtxGetId");

  struct Entry {
    unsigned long long id;
    std::shared_ptr<Context> context;
  };
  // Never destroyed: at the end of the process the driver may be unloaded first.
  static std::mutex& mutex = *new std::mutex;
  static auto& known = *new std::map<CUctx_st*, Entry>;
  const std::lock_guard<std::mutex> lock(mutex);
  Entry& entry = known[handle];
  if (!entry.context || entry.id != id) entry = {id, std::shared_ptr<Context>(new Context(driver))};
  return entry.context;
}

Context::Context(const Driver& driver) : driver_(driver) {
  int device = 0;
  check(driver, driver.CtxGetDevice(&device), "cuCtxGetDevice");
  capability_ = attribute(driver, device, kCapabilityMajor) * 10 + attribute(driver, device, kCapabilityMinor);
  shared_bytes_ = std::max(kSharedBytesUnasked, attribute(driver, device, kMaxSharedBytesPerBlock));
  target_ = target_for(capability_);
  usable_ = usable_variants(target_, shared_bytes_);
}

Kernel Context::kernel(const Usable& usable) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = kernels_.find(usable.variant->number);
  if (found != kernels_.end()) return found->second;
  return kernels_[usable.variant->number] = [&] {
    try {
      return load(usable);
    } catch (const Failure&) {
      // A driver older than the compiler may refuse machine code for its own device, but take PTX of an older version.
      if (usable.target->is_ptx()) throw;
      for (const Usable& other : usable_variants(ptx_for(capability_), shared_bytes_)) {
        if (other.variant != usable.variant) continue;
        try {
          return load(other);
        } catch (const Failure&) {
          break;
        }
      }
      throw;
    }
  }();
}

Kernel Context::load(const Usable& usable) const {
  const std::vector<char> code = code_of(*usable.target, *usable.image);
  CUmod_st* module = nullptr;
  Kernel kernel{nullptr, usable.image};
  check(driver_, driver_.ModuleLoadData(&module, code.data()), "cuModuleLoadData");
  check(driver_, driver_.ModuleGetFunction(&kernel.function, module, usable.image->function), "cuModuleGetFunction");
  if (usable.image->shared_bytes > kSharedBytesUnasked)
    check(driver_, driver_.FuncSetAttribute(kernel.function, kMaxDynamicSharedBytes, usable.image->shared_bytes),
          "cuFuncSetAttribute");
  return kernel;
}

}  // namespace keygraph::cuda
