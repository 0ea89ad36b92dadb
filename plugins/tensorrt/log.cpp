// SPDX-License-Identifier: Apache-2.0
#include "log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>

namespace keygraph::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

// The interfaces of plugins are the same in TensorRT 10 and 11, except those of the logger and its finder, whose
// virtual functions moved: calling the other version's would crash. So the version of the finder's library is checked.
// (TensorRT-RTX numbers its versions from 1 and has the interfaces of 11.)
bool same_logger_interface(nvinfer1::ILoggerFinder* finder) {
  Dl_info library;
  const void* functions = *reinterpret_cast<void* const*>(finder);
  if (!dladdr(functions, &library)) return true;
  void* handle = dlopen(library.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (!handle) return true;
  const auto major = reinterpret_cast<int32_t (*)()>(dlsym(handle, "getInferLibMajorVersion"));
  const bool same = !major || (major() == 10) == (NV_TENSORRT_MAJOR == 10);
  dlclose(handle);  // only the reference taken here: the library stays loaded
  return same;
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept {
  logger_finder = finder && same_logger_interface(finder) ? finder : nullptr;
}

void log(Severity severity, const std::string& where, const char* message) noexcept {
  try {
    const std::string line = "keygraph: " + where + ": " + message;
    nvinfer1::ILoggerFinder* finder = logger_finder;
    if (nvinfer1::ILogger* logger = finder ? finder->findLogger() : nullptr)
      logger->log(severity, line.c_str());
    else if (severity <= Severity::kERROR)
      std::fprintf(stderr, "%s\n", line.c_str());
  } catch (...) {  // out of memory, or the application's finder throws: no way left to report it
  }
}

}  // namespace keygraph::trt
