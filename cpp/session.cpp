// SPDX-License-Identifier: Apache-2.0
#include "session.hpp"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <set>
#include <string_view>

#include "errors.hpp"
#include "half.hpp"
#include "ort_library.hpp"

namespace keygraph {
namespace {

namespace fs = std::filesystem;

constexpr int kMostThreads = 1024;

// A failure that ONNX Runtime reports.
struct OrtFailure : Error {
  using Error::Error;
};

// Check that the file is not one of the usual mistakes, as files.read_start.
void check_file(const std::string& path) {
  const char* const wanted = "an exported .onnx file";
  std::error_code failed;
  const fs::file_status status = fs::status(path, failed);
  if (status.type() == fs::file_type::not_found) throw InputError(path + " does not exist; give " + wanted);
  if (fs::is_directory(status)) throw InputError(path + " is a folder; give " + wanted);
  if (!fs::is_regular_file(status)) throw InputError(path + " is a device or a pipe; give " + wanted);
  std::ifstream file(path, std::ios::binary);
  std::string start(512, '\0');
  if (!file) throw InputError("cannot read " + path + "; give " + wanted);
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<std::size_t>(file.gcount()));
  if (start.empty()) {
    throw InputError(path + " is empty (0 bytes); make or download it again: it should be " + wanted);
  }
  const std::size_t text = std::min(start.find_first_not_of(" \t\r\n"), start.size());
  std::string low = start.substr(text);
  std::transform(low.begin(), low.end(), low.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  if (low.rfind("version https://git-lfs", 0) == 0) {
    throw InputError(path + " is a Git LFS pointer, not " + wanted + "; fetch the file with: git lfs pull");
  }
  for (const char* page : {"<!doctype", "<html", "<?xml", "<head"}) {
    if (low.rfind(page, 0) == 0) {
      throw InputError(path + " is a web page, not " + wanted + "; download the file itself, not the page about it");
    }
  }
}

// Return a message in one line.
std::string one_line(const std::string& text) {
  std::string line;
  bool space = false;
  for (const char c : text) {
    const bool is_space = c == ' ' || c == '\n' || c == '\r' || c == '\t';
    if (!is_space && space && !line.empty()) line += ' ';
    if (!is_space) line += c;
    space = is_space;
  }
  return line;
}

bool contains(const std::string& text, std::initializer_list<const char*> phrases) {
  return std::any_of(phrases.begin(), phrases.end(),
                     [&](const char* phrase) { return text.find(phrase) != std::string::npos; });
}

std::string listed(const std::vector<std::string>& names) { return joined(names, ", "); }

const ort::Api* table(const ort::ApiBase* base) {
  if (const ort::Api* api = base->GetApi(ort::kApiVersion)) return api;
  throw InputError(std::string("ONNX Runtime ") + base->GetVersionString() + " is too old; install 1.20 or newer");
}

// Whether a version has a limit of how long an idle thread spins.
bool limits_spinning(const std::string& version) {
  int major = 0, minor = 0;
  return std::sscanf(version.c_str(), "%d.%d", &major, &minor) == 2 && (major > 1 || minor >= 26);
}

}  // namespace

Session::Session(const std::string& path, const ModelOptions& options)
    : api_(nullptr), environment_(nullptr, {nullptr}), memory_(nullptr, {nullptr}), session_(nullptr, {nullptr}) {
  if (options.threads < 0 || options.threads > kMostThreads) {
    throw InputError("threads is " + std::to_string(options.threads) + "; it must be a whole number from 1 to " +
                     std::to_string(kMostThreads));
  }
  check_file(path);
  const ort::ApiBase* base = load_onnxruntime(options.onnxruntime);
  api_ = table(base);
  version_ = base->GetVersionString();
  OrtEnv* environment = nullptr;
  check(api_->CreateEnv(ort::kLogFatal, "keygraph", &environment));
  environment_ = {environment, {api_->ReleaseEnv}};
  OrtMemoryInfo* memory = nullptr;
  check(api_->CreateCpuMemoryInfo(ort::kDeviceAllocator, ort::kMemoryDefault, &memory));
  memory_ = {memory, {api_->ReleaseMemoryInfo}};
  open(path, session_options(options).get());
  read_file_manifest(path);
  check_tensors(path);
  const bool used = manifest_.has_operators();
  if (!used) notices_.clear();  // They are about operators.
  description_ = "ONNX Runtime " + version_ + ", CPUExecutionProvider, ";
  description_ += used ? "operators from " + (library_.empty() ? "the functions in the file" : library_)
                       : std::string("standard operators");
}

void Session::check(OrtStatus* status) const {
  if (!status) return;
  const std::string message = one_line(api_->GetErrorMessage(status));
  api_->ReleaseStatus(status);
  throw OrtFailure(message);
}

Owned<OrtSessionOptions> Session::session_options(const ModelOptions& options) {
  OrtSessionOptions* made = nullptr;
  check(api_->CreateSessionOptions(&made));
  Owned<OrtSessionOptions> owned(made, {api_->ReleaseSessionOptions});
  check(api_->SetSessionLogSeverityLevel(made, ort::kLogFatal));
  // As runtime/backends/onnx_providers.py: idle threads hardly spin.
  if (limits_spinning(version_)) {
    check(api_->AddSessionConfigEntry(made, "session.intra_op.spin_duration_us", "50"));
  } else {
    check(api_->AddSessionConfigEntry(made, "session.intra_op.allow_spinning", "0"));
  }
  if (options.threads > 0) check(api_->SetIntraOpNumThreads(made, options.threads));
  if (!options.operators) return owned;
  const bool automatic = *options.operators == "auto";
  std::string path = automatic ? installed_operators() : *options.operators, why;
  std::error_code failed;
  if (path.empty()) {
    why = "libkeygraph_ort.so is not installed beside the library of the C++ runtime";
  } else if (!fs::is_regular_file(path, failed)) {
    why = "the operator library " + path + " does not exist";
  } else {
    try {
      check(api_->RegisterCustomOpsLibrary_V2(made, path.c_str()));
      library_ = fs::path(path).filename().string();
      return owned;
    } catch (const OrtFailure& error) {
      why = path + " does not load: " + error.what();
    }
  }
  if (!automatic) throw InputError(why + "; give another library, or none to use the functions in the file");
  notices_.push_back("slower plain functions are used in place of keygraph's operators: " + why);
  return owned;
}

void Session::open(const std::string& path, const OrtSessionOptions* options) {
  OrtSession* session = nullptr;
  try {
    check(api_->CreateSession(environment_.get(), path.c_str(), options, &session));
  } catch (const OrtFailure& error) {
    const std::string reason = error.what();
    if (contains(reason, {"bfloat16", "NOT_IMPLEMENTED"})) {
      throw InputError(path + ": ONNX Runtime has no bfloat16 kernels for the CPU; export it in fp32 or fp16 (" +
                       reason + ")");
    }
    std::error_code failed;
    throw InputError(path + " cannot be opened: it is not an ONNX file, is truncated (" +
                     std::to_string(fs::file_size(path, failed)) +
                     " bytes), or needs a newer ONNX Runtime; export or download it again (" + reason + ")");
  }
  session_ = {session, {api_->ReleaseSession}};
}

void Session::read_file_manifest(const std::string& path) {
  OrtAllocator* allocator = nullptr;
  check(api_->GetAllocatorWithDefaultOptions(&allocator));
  OrtModelMetadata* metadata = nullptr;
  check(api_->SessionGetModelMetadata(session_.get(), &metadata));
  const Owned<OrtModelMetadata> owned(metadata, {api_->ReleaseModelMetadata});
  char* text = nullptr;
  check(api_->ModelMetadataLookupCustomMetadataMap(metadata, allocator, kMetadataKey, &text));
  if (!text) {
    throw InputError(path +
                     " is an ONNX file, but not one that keygraph exported; make one with: export-model CHECKPOINT");
  }
  text_ = text;
  check(api_->AllocatorFree(allocator, text));
  manifest_ = read_manifest(text_, path);
}

std::vector<std::string> Session::names(bool inputs) const {
  OrtAllocator* allocator = nullptr;
  check(api_->GetAllocatorWithDefaultOptions(&allocator));
  std::size_t count = 0;
  check((inputs ? api_->SessionGetInputCount : api_->SessionGetOutputCount)(session_.get(), &count));
  std::vector<std::string> found;
  for (std::size_t i = 0; i < count; i++) {
    char* name = nullptr;
    check((inputs ? api_->SessionGetInputName : api_->SessionGetOutputName)(session_.get(), i, allocator, &name));
    found.emplace_back(name);
    check(api_->AllocatorFree(allocator, name));
  }
  return found;
}

void Session::check_tensors(const std::string& path) {
  const std::vector<std::string> inputs = names(true), outputs = names(false);
  std::set<std::string> expected{kImageInput};
  for (const ExtraInput& extra : manifest_.extra_inputs) expected.insert(extra.name);
  if (manifest_.neighbours && manifest_.neighbours->runtime) expected.insert(kKInput);
  if (std::set<std::string>(inputs.begin(), inputs.end()) != expected ||
      std::find(outputs.begin(), outputs.end(), kImageOutput) == outputs.end()) {
    throw InputError(path + ": inputs " + listed(inputs) + " and outputs " + listed(outputs) +
                     " are not those of its manifest; export it again");
  }
  const auto index = static_cast<std::size_t>(std::find(inputs.begin(), inputs.end(), kImageInput) - inputs.begin());
  OrtTypeInfo* info = nullptr;
  check(api_->SessionGetInputTypeInfo(session_.get(), index, &info));
  const Owned<OrtTypeInfo> owned(info, {api_->ReleaseTypeInfo});
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api_->CastTypeInfoToTensorInfo(info, &tensor));
  ort::ElementType type = ort::kUndefined;
  if (tensor) check(api_->GetTensorElementType(tensor, &type));
  if (type != ort::kFloat && type != ort::kFloat16) {
    throw InputError(path + ": its image is not a tensor of float or float16; export it again");
  }
  half_ = type == ort::kFloat16;
  std::size_t count = 0;
  check(api_->GetDimensionsCount(tensor, &count));
  std::vector<std::int64_t> sizes(count);
  check(api_->GetDimensions(tensor, sizes.data(), count));
  manifest_ = with_fixed_sizes(manifest_, sizes, path);
}

Tensor Session::run(std::vector<Tensor>& inputs, const std::optional<std::int64_t>& k) const {
  std::vector<const char*> names{kImageInput};
  for (const ExtraInput& extra : manifest_.extra_inputs) names.push_back(extra.name.c_str());
  std::vector<Owned<OrtValue>> owned;
  std::vector<std::vector<std::uint16_t>> halves;
  const auto add = [&](void* data, std::size_t bytes, const std::vector<std::int64_t>& shape, ort::ElementType type) {
    OrtValue* value = nullptr;
    check(api_->CreateTensorWithDataAsOrtValue(memory_.get(), data, bytes, shape.data(), shape.size(), type, &value));
    owned.emplace_back(value, Release<OrtValue>{api_->ReleaseValue});
  };
  try {
    for (Tensor& input : inputs) {
      if (half_) {
        auto& half = halves.emplace_back(input.values.size());
        std::transform(input.values.begin(), input.values.end(), half.begin(), to_half);
        add(half.data(), half.size() * sizeof half[0], input.shape, ort::kFloat16);
      } else {
        add(input.values.data(), input.values.size() * sizeof(float), input.shape, ort::kFloat);
      }
    }
    std::int64_t neighbours = k.value_or(0);
    if (k) {
      names.push_back(kKInput);
      add(&neighbours, sizeof neighbours, {1}, ort::kInt64);
    }
    std::vector<const OrtValue*> values;
    for (const auto& value : owned) values.push_back(value.get());
    OrtValue* result = nullptr;
    check(api_->Run(session_.get(), nullptr, names.data(), values.data(), values.size(), &kImageOutput, 1, &result));
    owned.emplace_back(result, Release<OrtValue>{api_->ReleaseValue});
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_->GetTensorTypeAndShape(result, &info));
    const Owned<OrtTensorTypeAndShapeInfo> shape(info, {api_->ReleaseTensorTypeAndShapeInfo});
    std::size_t count = 0;
    ort::ElementType type = ort::kUndefined;
    check(api_->GetDimensionsCount(info, &count));
    check(api_->GetTensorElementType(info, &type));
    Tensor restored{std::vector<std::int64_t>(count), {}};
    check(api_->GetDimensions(info, restored.shape.data(), count));
    void* data = nullptr;
    check(api_->GetTensorMutableData(result, &data));
    const std::size_t size = elements(restored.shape);
    if (type == ort::kFloat16) {
      restored.values.resize(size);
      const auto* half = static_cast<const std::uint16_t*>(data);
      std::transform(half, half + size, restored.values.begin(), from_half);
    } else if (type == ort::kFloat) {
      const auto* values_begin = static_cast<const float*>(data);
      restored.values.assign(values_begin, values_begin + size);
    } else {
      throw Error("the model gave a tensor that is not of float or float16; export it again");
    }
    return restored;
  } catch (const OrtFailure& error) {
    const std::string reason = error.what();
    if (contains(reason, {"Failed to allocate memory", "bad_alloc", "out of memory", "smaller than requested bytes",
                          "ALLOC_FAILED"})) {
      throw SessionMemoryError("ONNX Runtime ran out of memory");
    }
    throw Error("ONNX Runtime failed on an image tensor of shape " + by(inputs[0].shape) + ": " + reason);
  }
}

}  // namespace keygraph
