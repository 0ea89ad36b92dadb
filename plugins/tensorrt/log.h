// SPDX-License-Identifier: Apache-2.0
//
// Logging, and the conversion of exceptions into status numbers: no exception leaves the plugin.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>

#include "../common/operator_shapes.h"

namespace keygraph::trt {

using Severity = nvinfer1::ILogger::Severity;

// Set where to get TensorRT's logger. Null, or the finder of a TensorRT with another logger interface, means no logger.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Log "keygraph: <where>: <message>". Without a logger, errors go to stderr and the rest is dropped.
void log(Severity severity, const std::string& where, const char* message) noexcept;

// Run body() and return 0; an exception is logged, and its keygraph_status, or -1 if it has none, is returned.
template <class Body>
int32_t guarded(const std::string& where, Body body) noexcept {
  try {
    body();
    return 0;
  } catch (const OperatorError& error) {
    log(Severity::kERROR, where, error.what());
    return error.status;
  } catch (const std::exception& error) {
    log(Severity::kERROR, where, error.what());
  } catch (...) {
    log(Severity::kERROR, where, "unknown exception");
  }
  return -1;
}

}  // namespace keygraph::trt
