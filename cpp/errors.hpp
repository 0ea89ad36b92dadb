// SPDX-License-Identifier: Apache-2.0
//
// Words for messages, and the error that smaller tiles may cure. `Error` and `InputError` are in runtime.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "keygraph/runtime.hpp"

namespace keygraph {

// A run of the model did not fit in memory.
struct SessionMemoryError : Error {
  using Error::Error;
};

// Return numbers joined by " x ": "8 x 16".
std::string by(const std::vector<std::int64_t>& sizes);
// Return words joined by `separator`.
std::string joined(const std::vector<std::string>& words, const std::string& separator);
// Return a number with its noun: "1 channel", "2 channels".
std::string counted(std::int64_t number, const std::string& noun);
// Return a number as Python's format "g" writes it.
std::string general(double number);
// Return bytes in MiB.
std::string mebibytes(double size);

// Return the product of sizes of an array that is about to be allocated, or throw std::bad_alloc where there is none.
std::size_t elements(const std::vector<std::int64_t>& sizes);

}  // namespace keygraph
