// SPDX-License-Identifier: Apache-2.0
//
// A strict reader of JSON as Python's json module writes it, for manifests: a library would be one more thing to have
// where keygraph is built, and does not read NaN and Infinity, which Python writes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace keygraph {

// The text is not JSON, or a value is not what it should be; the message names the field.
struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Json;
using JsonArray = std::vector<Json>;
using JsonObject = std::map<std::string, Json, std::less<>>;

struct Json {
  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, JsonArray, JsonObject> value;

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value); }
};

// Return the value of a text that is JSON as a whole. Of a key given twice, the last value counts.
Json parse_json(std::string_view text);

// Convert a value, or throw JsonError: "Expected `int`, got `str` - at `$.tiling.tile`".
std::int64_t to_integer(const Json& json, const std::string& path);
double to_real(const Json& json, const std::string& path);
bool to_bool(const Json& json, const std::string& path);
std::string to_string(const Json& json, const std::string& path);
const JsonArray& to_array(const Json& json, const std::string& path);
// Of exactly so many elements.
std::vector<std::int64_t> to_integers(const Json& json, const std::string& path, std::size_t count);
std::vector<double> to_reals(const Json& json, const std::string& path, std::size_t count);

// The fields of an object, each asked for by name.
class JsonFields {
 public:
  JsonFields(const Json& json, std::string path);

  const Json& required(const std::string& name);
  // nullptr where it is missing.
  const Json* optional(const std::string& name);
  std::string path(const std::string& name) const { return path_ + "." + name; }
  // Throw JsonError for the first field that nobody asked for.
  void require_known() const;

 private:
  const JsonObject* object_;
  std::string path_;
  std::map<std::string, bool, std::less<>> known_;
};

}  // namespace keygraph
