// SPDX-License-Identifier: Apache-2.0
#include "log.h"

#include <atomic>
#include <cstdio>

namespace keygraph::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void log(Severity severity, const std::string& where, const char* message) noexcept {
  try {
    const std::string line = "keygraph: " + where + ": " + message;
    nvinfer1::ILoggerFinder* finder = logger_finder;
    if (nvinfer1::ILogger* logger = finder ? finder->findLogger() : nullptr)
      logger->log(severity, line.c_str());
    else if (severity <= Severity::kERROR)
      std::fprintf(stderr, "%s\n", line.c_str());
  } catch (...) {  // out of memory, or the application's finder throws: there is nobody left to tell
  }
}

}  // namespace keygraph::trt
