// SPDX-License-Identifier: Apache-2.0
#include "driver.h"

#include <dlfcn.h>

#include <string>

#include "failure.h"

namespace keygraph::cuda {
namespace {

std::string words_for(const Driver& driver, Result result) {
  const char *name = nullptr, *text = nullptr;
  if (driver.GetErrorName(result, &name) != kSuccess || !name) return "error " + std::to_string(result);
  if (driver.GetErrorString(result, &text) != kSuccess || !text) return name;
  return std::string(name) + " (" + text + ")";
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Driver open_driver() {
  // Never closed: the driver stays loaded until the process ends.
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* const reason = dlerror();
    throw Failure{KEYGRAPH_NO_DRIVER,
                  std::string("the NVIDIA driver's library does not open: ") + (reason ? reason : "")};
  }
  Driver driver{};
  find(library, "cuCtxGetId", driver.CtxGetId);
  const char* missing = nullptr;
  const auto need = [&](const char* name, auto& function) {
    if (!find(library, name, function)) missing = name;
  };
  need("cuInit", driver.Init);
  need("cuGetErrorName", driver.GetErrorName);
  need("cuGetErrorString", driver.GetErrorString);
  need("cuCtxGetCurrent", driver.CtxGetCurrent);
  need("cuCtxGetDevice", driver.CtxGetDevice);
  need("cuDeviceGetAttribute", driver.DeviceGetAttribute);
  need("cuModuleLoadData", driver.ModuleLoadData);
  need("cuModuleGetFunction", driver.ModuleGetFunction);
  need("cuFuncSetAttribute", driver.FuncSetAttribute);
  need("cuLaunchKernel", driver.LaunchKernel);
  if (missing) throw Failure{KEYGRAPH_NO_DRIVER, std::string("libcuda.so.1 has no ") + missing};
  if (const Result result = driver.Init(0); result != kSuccess)
    throw Failure{KEYGRAPH_NO_DRIVER, "cuInit fails: " + words_for(driver, result)};
  return driver;
}

}  // namespace

const Driver& driver() {
  static const Driver opened = open_driver();
  return opened;
}

void check(const Driver& driver, Result result, const char* call) {
  if (result != kSuccess)
    throw Failure{KEYGRAPH_CUDA_FAILED, std::string(call) + " fails: " + words_for(driver, result)};
}

}  // namespace keygraph::cuda
