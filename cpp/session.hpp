// SPDX-License-Identifier: Apache-2.0
//
// An exported file in ONNX Runtime, on the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../plugins/onnxruntime/ort_api.h"
#include "keygraph/runtime.hpp"
#include "manifest.hpp"

namespace keygraph {

// float[B][C][H][W].
struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

// Frees one of ONNX Runtime's objects by its function in the table.
template <class T>
struct Release {
  void (*function)(T*);
  void operator()(T* object) const { function(object); }
};
template <class T>
using Owned = std::unique_ptr<T, Release<T>>;

class Session {
 public:
  // Throws InputError where the file, the operator library or ONNX Runtime cannot be used.
  Session(const std::string& path, const ModelOptions& options);

  const Manifest& manifest() const { return manifest_; }
  const std::string& manifest_text() const { return text_; }
  const std::string& description() const { return description_; }
  const std::vector<std::string>& notices() const { return notices_; }
  // Whether keygraph's operators run from the library, which takes several times less memory than the functions.
  bool runs_library() const { return !library_.empty() && manifest_.has_operators(); }

  // Run a batch: the image, then the manifest's extra inputs. Throws SessionMemoryError, or Error where it fails.
  Tensor run(std::vector<Tensor>& inputs, const std::optional<std::int64_t>& k) const;

 private:
  void check(OrtStatus* status) const;
  Owned<OrtSessionOptions> session_options(const ModelOptions& options);
  void open(const std::string& path, const OrtSessionOptions* options);
  void read_file_manifest(const std::string& path);
  // Names of the session's inputs or outputs.
  std::vector<std::string> names(bool inputs) const;
  void check_tensors(const std::string& path);

  const ort::Api* api_;
  std::string version_;
  std::string library_;  // Name of the operator library, empty for the functions in the file.
  std::string text_;
  Manifest manifest_;
  std::string description_;
  std::vector<std::string> notices_;
  bool half_ = false;  // Whether images are float16.
  Owned<OrtEnv> environment_;
  Owned<OrtMemoryInfo> memory_;
  Owned<OrtSession> session_;
};

}  // namespace keygraph
