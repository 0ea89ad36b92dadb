// SPDX-License-Identifier: Apache-2.0
#include "errors.hpp"

#include <cstdio>
#include <limits>
#include <new>

namespace keygraph {
namespace {

// Line breaks and control characters, which names and files may bring, escaped.
std::string printable(const std::string& text) {
  std::string line;
  for (const char character : text) {
    const auto code = static_cast<unsigned char>(character);
    if (code >= 0x20 && code != 0x7F) {
      line += character;
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned>(code));
      line += escaped;
    }
  }
  return line;
}

}  // namespace

Error::Error(const std::string& message) : std::runtime_error(printable(message)) {}
Error::~Error() = default;

InputError::InputError(const std::string& message) : Error(message) {}
InputError::~InputError() = default;

std::string by(const std::vector<std::int64_t>& sizes) {
  std::vector<std::string> words;
  for (const std::int64_t size : sizes) words.push_back(std::to_string(size));
  return joined(words, " x ");
}

std::string joined(const std::vector<std::string>& words, const std::string& separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

std::string counted(std::int64_t number, const std::string& noun) {
  return std::to_string(number) + " " + noun + (number == 1 ? "" : "s");
}

std::string general(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

std::string mebibytes(double size) {
  char text[64];
  std::snprintf(text, sizeof text, "%.0f MiB", size / (1 << 20));
  return text;
}

std::size_t elements(const std::vector<std::int64_t>& sizes) {
  // Of no more than an allocation can have in bytes.
  constexpr std::size_t kMost = std::numeric_limits<std::ptrdiff_t>::max() / sizeof(double);
  std::size_t product = 1;
  for (const std::int64_t size : sizes) {
    const auto factor = static_cast<std::size_t>(size);
    if (factor != 0 && product > kMost / factor) throw std::bad_alloc();
    product *= factor;
  }
  return product;
}

}  // namespace keygraph
