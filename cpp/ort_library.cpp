// SPDX-License-Identifier: Apache-2.0
#include "ort_library.hpp"

#include <dlfcn.h>
#include <stdlib.h>

#include <filesystem>
#include <vector>

#include "keygraph/runtime.hpp"

namespace keygraph {
namespace {

namespace fs = std::filesystem;

using EntryPoint = const ort::ApiBase* (*)();

constexpr const char* kEntryPoint = "OrtGetApiBase";

// Return the folder of this library; empty where the loader does not know it.
fs::path own_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&load_onnxruntime), &info) == 0 || !info.dli_fname) return {};
  std::error_code failed;
  const fs::path path = fs::absolute(info.dli_fname, failed);
  return failed ? fs::path() : path.parent_path();
}

// Return ONNX Runtime of the Python package beside keygraph's: site-packages/keygraph/plugins/lib is our folder.
std::vector<std::string> of_python() {
  std::vector<std::string> found;
  std::error_code failed;
  const fs::path folder = own_folder() / ".." / ".." / ".." / "onnxruntime" / "capi";
  for (fs::directory_iterator file(folder, failed), end; !failed && file != end; file.increment(failed)) {
    if (file->path().filename().string().rfind("libonnxruntime.so", 0) == 0) found.push_back(file->path().string());
  }
  return found;
}

const ort::ApiBase* entry_of(void* library) {
  const auto entry = reinterpret_cast<EntryPoint>(dlsym(library, kEntryPoint));
  return entry ? entry() : nullptr;
}

// Load a library, which stays loaded. Return nullptr where it has no entry point.
const ort::ApiBase* load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  return library ? entry_of(library) : nullptr;
}

}  // namespace

const ort::ApiBase* load_onnxruntime(const std::string& path) {
  // ONNX Runtime reads it when it is loaded; later nothing stops its telemetry.
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  if (!path.empty()) {
    dlerror();
    if (const auto* base = load(path)) return base;
    const char* reason = dlerror();
    throw InputError(path + " cannot be loaded as ONNX Runtime (" + (reason ? reason : "no OrtGetApiBase in it") +
                     "); give another library in ModelOptions::onnxruntime");
  }
  if (const auto* base = entry_of(RTLD_DEFAULT)) return base;
  if (const auto* base = load("libonnxruntime.so.1")) return base;
  for (const std::string& candidate : of_python()) {
    if (const auto* base = load(candidate)) return base;
  }
  throw InputError(
      "ONNX Runtime is not found: neither libonnxruntime.so.1 on the loader's path nor the Python package onnxruntime "
      "beside keygraph; install one, or give its library in ModelOptions::onnxruntime");
}

std::string installed_operators() {
  const fs::path path = own_folder() / "libkeygraph_ort.so";
  std::error_code failed;
  return fs::is_regular_file(path, failed) ? path.string() : std::string();
}

}  // namespace keygraph
