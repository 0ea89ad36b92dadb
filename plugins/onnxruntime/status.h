// SPDX-License-Identifier: Apache-2.0
//
// Exceptions of the adapter, and their conversion to an OrtStatus with a message of one line at the library's boundary.
#pragma once

#include <exception>
#include <string>

#include "../common/operator_shapes.h"
#include "ort_api.h"

namespace keygraph::ort {

// An error found by the adapter.
struct Error {
  ErrorCode code;
  std::string message;
};

// An error returned by ONNX Runtime, passed on unchanged.
struct StatusError {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status) throw StatusError{status};
}

inline OrtStatus* status_of(const Api* api, ErrorCode code, const std::string& where,
                            const std::string& message) noexcept {
  try {
    return api->CreateStatus(code, (where + ": " + message).c_str());
  } catch (...) {
    return api->CreateStatus(code, "keygraph: an error, and no memory left to describe it");
  }
}

// Run `body` and return null; what it throws becomes a status whose message starts with `where`.
template <class Body>
OrtStatus* guarded(const Api* api, const std::string& where, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const Error& error) {
    return status_of(api, error.code, where, error.message);
  } catch (const OperatorError& error) {
    return status_of(api, kInvalidArgument, where, error.what());
  } catch (const std::exception& error) {
    return api->CreateStatus(kFail, error.what());
  } catch (...) {
    return api->CreateStatus(kFail, "keygraph: unknown error");
  }
}

}  // namespace keygraph::ort
