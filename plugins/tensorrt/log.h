// SPDX-License-Identifier: Apache-2.0
//
// Errors inside the plugin, and how they leave it: through TensorRT's logger, never as an exception.
#pragma once

#include <NvInferRuntime.h>

#include <exception>
#include <string>

#include "../common/operator_shapes.h"

namespace keygraph::trt {

using Severity = nvinfer1::ILogger::Severity;

// Where TensorRT's logger is asked for from now on; null, or one of a TensorRT whose loggers we cannot call: nowhere.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Writes "keygraph: <where>: <message>". Where there is no logger, errors go to stderr and the rest nowhere.
void log(Severity severity, const std::string& where, const char* message) noexcept;

// Runs body() and returns 0; an exception is logged and becomes a number other than 0, a keygraph_status where it has one.
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
