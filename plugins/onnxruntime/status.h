// SPDX-License-Identifier: Apache-2.0
//
// Errors on their way to the boundary of the library, where they become an OrtStatus of one line.
#pragma once

#include <exception>
#include <string>

#include "ort_api.h"

namespace keygraph::ort {

// What has gone wrong with us.
struct Error {
  ErrorCode code;
  std::string message;
};

// An error of ONNX Runtime itself, passed on as it is.
struct StatusError {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status) throw StatusError{status};
}

// Runs `body`; what it throws becomes a status that starts with `where`.
template <class Body>
OrtStatus* guarded(const Api* api, const std::string& where, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const Error& error) {
    try {
      return api->CreateStatus(error.code, (where + ": " + error.message).c_str());
    } catch (...) {
      return api->CreateStatus(error.code, "keygraph: an error, and no memory left to describe it");
    }
  } catch (const std::exception& error) {
    return api->CreateStatus(kFail, error.what());
  } catch (...) {
    return api->CreateStatus(kFail, "keygraph: unknown error");
  }
}

}  // namespace keygraph::ort
