// SPDX-License-Identifier: Apache-2.0
//
// The exception inside the library; it becomes a status at the C interface.
#pragma once

#include <string>

#include "keygraph/types.h"

namespace keygraph::cuda {

struct Failure {
  keygraph_status status;
  std::string message;
};

}  // namespace keygraph::cuda
