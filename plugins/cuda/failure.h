// SPDX-License-Identifier: Apache-2.0
//
// An error on its way to the boundary of the library.
#pragma once

#include <string>

#include "keygraph/types.h"

namespace keygraph::cuda {

struct Failure {
  keygraph_status status;
  std::string message;
};

}  // namespace keygraph::cuda
