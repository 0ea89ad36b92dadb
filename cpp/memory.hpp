// SPDX-License-Identifier: Apache-2.0
//
// How much memory this process can still allocate, as runtime/device/memory.py estimates it.
#pragma once

#include <optional>

namespace keygraph {

// Return the smallest of what the machine has available, what the limits of the process's control groups leave, and
// what its own limits leave, in bytes; nullopt where the system reports none of them.
std::optional<double> available_memory();

}  // namespace keygraph
