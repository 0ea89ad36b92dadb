// SPDX-License-Identifier: Apache-2.0
#include "json.hpp"

#include <charconv>
#include <cmath>
#include <limits>
#include <locale>
#include <sstream>
#include <utility>

namespace keygraph {
namespace {

// Deeper than any manifest.
constexpr int kMostLevels = 200;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json json = value(0);
    space();
    if (at_ != text_.size()) fail();
    return json;
  }

 private:
  [[noreturn]] void fail() const { throw JsonError("not JSON at byte " + std::to_string(at_)); }

  void space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) at_++;
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void expect(std::string_view word) {
    space();
    if (!take(word)) fail();
  }

  Json value(int level) {
    if (level > kMostLevels) throw JsonError("its JSON is nested too deeply");
    space();
    if (at_ == text_.size()) fail();
    switch (text_[at_]) {
      case '{':
        return {object(level)};
      case '[':
        return {array(level)};
      case '"':
        return {string()};
      default:
        break;
    }
    if (take("null")) return {nullptr};
    if (take("true")) return {true};
    if (take("false")) return {false};
    if (take("NaN")) return {std::numeric_limits<double>::quiet_NaN()};
    if (take("Infinity")) return {std::numeric_limits<double>::infinity()};
    if (take("-Infinity")) return {-std::numeric_limits<double>::infinity()};
    return number();
  }

  JsonObject object(int level) {
    JsonObject found;
    expect("{");
    space();
    if (take("}")) return found;
    do {
      space();
      std::string name = string();
      expect(":");
      found.insert_or_assign(std::move(name), value(level + 1));
      space();
    } while (take(","));
    expect("}");
    return found;
  }

  JsonArray array(int level) {
    JsonArray found;
    expect("[");
    space();
    if (take("]")) return found;
    do {
      found.push_back(value(level + 1));
      space();
    } while (take(","));
    expect("]");
    return found;
  }

  std::size_t digits() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') at_++;
    if (at_ == begin) fail();
    return at_ - begin;
  }

  Json number() {
    const std::size_t begin = at_;
    take("-");
    const bool zero = text_.substr(at_, 1) == "0";
    if (digits() > 1 && zero) fail();
    bool real = false;
    if (take(".")) {
      digits();
      real = true;
    }
    if (take("e") || take("E")) {
      if (!take("+")) take("-");
      digits();
      real = true;
    }
    const std::string digits_of(text_.substr(begin, at_ - begin));
    std::int64_t integer = 0;
    const char* const last = digits_of.data() + digits_of.size();
    if (!real && std::from_chars(digits_of.data(), last, integer).ec == std::errc()) return {integer};
    // Also integers that no field can hold. Whatever the program's locale is, the decimal point is a point.
    std::istringstream stream(digits_of);
    stream.imbue(std::locale::classic());
    double number = 0;
    stream >> number;
    return {number};
  }

  std::string string() {
    if (!take("\"")) fail();
    std::string found;
    while (!take("\"")) {
      if (at_ == text_.size() || static_cast<unsigned char>(text_[at_]) < 0x20) fail();
      const char next = text_[at_++];
      if (next != '\\') {
        found += next;
        continue;
      }
      const char escaped = at_ < text_.size() ? text_[at_++] : '\0';
      constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
      if (const std::size_t which = kNames.find(escaped); which != std::string_view::npos) {
        found += kValues[which];
      } else if (escaped == 'u') {
        append_utf8(found, code_point());
      } else {
        fail();
      }
    }
    return found;
  }

  unsigned four_hex() {
    unsigned value = 0;
    const char* first = text_.data() + at_;
    if (text_.size() - at_ < 4 || std::from_chars(first, first + 4, value, 16).ptr != first + 4) fail();
    at_ += 4;
    return value;
  }

  unsigned code_point() {
    const unsigned high = four_hex();
    if (high < 0xD800 || high > 0xDBFF || !take("\\u")) return high;
    const unsigned low = four_hex();
    if (low < 0xDC00 || low > 0xDFFF) fail();
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  static void append_utf8(std::string& text, unsigned code) {
    const auto continued = [&](unsigned shift) { text += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xC0 | (code >> 6));
      continued(0);
    } else if (code < 0x10000) {
      text += static_cast<char>(0xE0 | (code >> 12));
      continued(6), continued(0);
    } else {
      text += static_cast<char>(0xF0 | (code >> 18));
      continued(12), continued(6), continued(0);
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

[[noreturn]] void expected(const char* kind, const Json& json, const std::string& path) {
  constexpr const char* kNames[] = {"null", "bool", "int", "float", "str", "array", "object"};
  throw JsonError(std::string("Expected `") + kind + "`, got `" + kNames[json.value.index()] + "` - at `" + path + "`");
}

template <class T, class Convert>
std::vector<T> to_several(const Json& json, const std::string& path, std::size_t count, Convert convert) {
  const JsonArray& array = to_array(json, path);
  if (array.size() != count) {
    throw JsonError("Expected `array` of length " + std::to_string(count) + " - at `" + path + "`");
  }
  std::vector<T> found;
  for (std::size_t i = 0; i < count; i++) found.push_back(convert(array[i], path + "[" + std::to_string(i) + "]"));
  return found;
}

}  // namespace

Json parse_json(std::string_view text) { return Parser(text).document(); }

std::int64_t to_integer(const Json& json, const std::string& path) {
  if (const auto* integer = std::get_if<std::int64_t>(&json.value)) return *integer;
  const auto* real = std::get_if<double>(&json.value);
  if (real && std::floor(*real) == *real && std::abs(*real) < 9e15) return static_cast<std::int64_t>(*real);
  expected("int", json, path);
}

double to_real(const Json& json, const std::string& path) {
  if (const auto* integer = std::get_if<std::int64_t>(&json.value)) return static_cast<double>(*integer);
  if (const auto* real = std::get_if<double>(&json.value)) return *real;
  expected("float", json, path);
}

bool to_bool(const Json& json, const std::string& path) {
  if (const auto* value = std::get_if<bool>(&json.value)) return *value;
  expected("bool", json, path);
}

std::string to_string(const Json& json, const std::string& path) {
  if (const auto* value = std::get_if<std::string>(&json.value)) return *value;
  expected("str", json, path);
}

const JsonArray& to_array(const Json& json, const std::string& path) {
  if (const auto* value = std::get_if<JsonArray>(&json.value)) return *value;
  expected("array", json, path);
}

std::vector<std::int64_t> to_integers(const Json& json, const std::string& path, std::size_t count) {
  return to_several<std::int64_t>(json, path, count, to_integer);
}

std::vector<double> to_reals(const Json& json, const std::string& path, std::size_t count) {
  return to_several<double>(json, path, count, to_real);
}

JsonFields::JsonFields(const Json& json, std::string path)
    : object_(std::get_if<JsonObject>(&json.value)), path_(std::move(path)) {
  if (!object_) expected("object", json, path_);
}

const Json* JsonFields::optional(const std::string& name) {
  known_[name] = true;
  const auto found = object_->find(name);
  return found == object_->end() ? nullptr : &found->second;
}

const Json& JsonFields::required(const std::string& name) {
  if (const Json* found = optional(name)) return *found;
  throw JsonError("Object missing required field `" + name + "`" + (path_ == "$" ? "" : " - at `" + path_ + "`"));
}

void JsonFields::require_known() const {
  for (const auto& [name, value] : *object_) {
    if (known_.count(name) == 0) throw JsonError("Unknown field `" + path(name) + "`");
  }
}

}  // namespace keygraph
