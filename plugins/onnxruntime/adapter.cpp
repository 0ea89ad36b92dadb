// SPDX-License-Identifier: Apache-2.0
//
// libkeygraph_ort: KeyGraph and KeyGraphAttention as custom operators of ONNX Runtime, in the domain "keygraph".
// Checks shapes, then calls the C interface with the session's own threads. Errors come back as OrtStatus, one line
// that names the node; no exception crosses the boundary.
#include <cmath>
#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include "keygraph/cpu.h"
#include "ort_api.h"

namespace keygraph::ort {
namespace {

using Shape = std::vector<int64_t>;

// What has gone wrong, on its way to the boundary of this library.
struct Error {
  ErrorCode code;
  std::string message;
};

// An error of ONNX Runtime itself, passed on as it is.
struct StatusError {
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status) throw StatusError{status};
}

// Runs `body`; what it throws becomes a status that starts with `where`.
template <class Body>
OrtStatus* guarded(const Api* api, const std::string& where, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const Error& error) {
    try {
      return api->CreateStatus(error.code, (where + ": " + error.message).c_str());
    } catch (...) {
      return api->CreateStatus(error.code, "keygraph: an error, and no memory left to describe it");
    }
  } catch (const std::exception& error) {
    return api->CreateStatus(kFail, error.what());
  } catch (...) {
    return api->CreateStatus(kFail, "keygraph: unknown error");
  }
}

std::string text(const Shape& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

int64_t words_of(int64_t nodes) { return nodes / 32 + (nodes % 32 != 0); }

struct Tensor {
  Shape shape;
  const void* data;
  ElementType type;
};

struct Kernel {
  const Api* api;
  std::string where;  // "KeyGraph node 'name'": how messages start
  keygraph_dtype dtype;
  bool has_scale;
  float scale;
  int64_t heads;  // of the form with three sizes; 0 where the node does not say

  Tensor input(OrtKernelContext* context, size_t index) const {
    const OrtValue* value = nullptr;
    check(api->KernelContext_GetInput(context, index, &value));
    if (!value) return {{}, nullptr, kUndefined};
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api->GetTensorTypeAndShape(value, &info));
    size_t rank = 0;
    OrtStatus* status = api->GetDimensionsCount(info, &rank);
    Shape shape(rank);
    if (!status) status = api->GetDimensions(info, shape.data(), rank);
    ElementType type = kUndefined;
    if (!status) status = api->GetTensorElementType(info, &type);
    api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
    void* data = nullptr;
    check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    return {std::move(shape), data, type};
  }

  void* output(OrtKernelContext* context, const Shape& shape) const {
    OrtValue* value = nullptr;
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &value));
    void* data = nullptr;
    check(api->GetTensorMutableData(value, &data));
    return data;
  }
};

// A tensor's shape must have as many sizes, each the one given or anything (-1).
void expect(const char* name, const Shape& shape, const Shape& sizes, const char* meaning) {
  bool good = shape.size() == sizes.size();
  for (size_t i = 0; good && i < sizes.size(); ++i) good = sizes[i] < 0 || shape[i] == sizes[i];
  if (!good) throw Error{kInvalidArgument, std::string(name) + " has shape " + text(shape) + ", expected " + meaning};
}

// The session's own threads, as the C interface wants them.
struct SessionThreads {
  const Api* api;
  OrtKernelContext* context;
  OrtStatus* status = nullptr;

  static void run(void* self, size_t tasks, void (*task)(void*, size_t), void* argument) {
    SessionThreads& threads = *static_cast<SessionThreads*>(self);
    threads.status = threads.api->KernelContext_ParallelFor(
        threads.context, reinterpret_cast<void (*)(void*, size_t)>(task), tasks, 0, argument);
  }
};

void check(keygraph_status status, const SessionThreads& threads) {
  check(threads.status);
  if (status != KEYGRAPH_OK)
    throw Error{status == KEYGRAPH_OUT_OF_MEMORY ? kFail : kInvalidArgument, keygraph_status_message(status)};
}

void compute_key_graph(const Kernel& kernel, OrtKernelContext* context) {
  const Tensor query = kernel.input(context, 0), key = kernel.input(context, 1), k = kernel.input(context, 2);
  expect("query", query.shape, {-1, -1, -1, -1}, "[B, G, M, C]");
  const Shape& q = query.shape;
  expect("key", key.shape, {q[0], q[1], -1, q[3]}, ("[B, G, N, C] as query's " + text(q)).c_str());
  int64_t count = 1;
  for (const int64_t size : k.shape) count *= size;
  if (count != 1) throw Error{kInvalidArgument, "k has shape " + text(k.shape) + ", expected one number"};
  const int64_t wanted = *static_cast<const int64_t*>(k.data);
  if (wanted < 1) throw Error{kInvalidArgument, "k is " + std::to_string(wanted) + ", it must be at least 1"};
  const keygraph_graph_shape shape{q[0], q[1], q[2], key.shape[2], q[3]};
  void* graph = kernel.output(context, {q[0], q[1], q[2], words_of(shape.nodes)});
  SessionThreads threads{kernel.api, context};
  const keygraph_parallel parallel{&SessionThreads::run, &threads};
  check(keygraph_cpu_key_graph(&shape, kernel.dtype, query.data, key.data, wanted, static_cast<int32_t*>(graph),
                               &parallel),
        threads);
}

void expect_heads_first(const Shape& q, const Shape& k, const Shape& v) {
  expect("q", q, {-1, -1, -1, -1}, "[B, H, M, D], or [B, M, H D] with the attribute heads");
  expect("k", k, {q[0], q[1], -1, q[3]}, ("[B, H, N, D] as q's " + text(q)).c_str());
  expect("v", v, {q[0], q[1], k[2], -1}, ("[B, H, N, Dv] as k's " + text(k)).c_str());
}

void expect_heads_last(int64_t heads, const Shape& q, const Shape& k, const Shape& v) {
  if (heads < 1) throw Error{kInvalidArgument, "q has three sizes, so the attribute heads must say how many it holds"};
  expect("k", k, {q[0], -1, q[2]}, ("[B, N, H D] as q's " + text(q)).c_str());
  expect("v", v, {q[0], k[1], -1}, ("[B, N, H Dv] as k's " + text(k)).c_str());
  if (q[2] % heads != 0 || v[2] % heads != 0)
    throw Error{kInvalidArgument, "the last sizes of q " + text(q) + " and v " + text(v) + " must be multiples of the " +
                                      std::to_string(heads) + " heads"};
}

void compute_attention(const Kernel& kernel, OrtKernelContext* context) {
  const Tensor query = kernel.input(context, 0), key = kernel.input(context, 1), value = kernel.input(context, 2),
               graph = kernel.input(context, 3);
  size_t inputs = 0;
  check(kernel.api->KernelContext_GetInputCount(context, &inputs));
  const Tensor bias = inputs > 4 ? kernel.input(context, 4) : Tensor{{}, nullptr, kUndefined};
  if (query.type != key.type) throw Error{kInvalidArgument, "q and k have different element types"};
  const Shape& q = query.shape;
  const bool heads_last = q.size() == 3;
  if (heads_last)
    expect_heads_last(kernel.heads, q, key.shape, value.shape);
  else
    expect_heads_first(q, key.shape, value.shape);
  const int64_t heads = heads_last ? kernel.heads : q[1], rows = heads_last ? q[1] : q[2];
  const int64_t nodes = key.shape[heads_last ? 1 : 2];
  const int64_t channels = heads_last ? q[2] / heads : q[3];
  const int64_t value_channels = heads_last ? value.shape[2] / heads : value.shape[3];
  const Shape wanted{q[0], -1, rows, words_of(nodes)};
  expect("graph", graph.shape, wanted,
         ("[" + std::to_string(q[0]) + ", 1 or " + std::to_string(heads) + ", " + std::to_string(rows) + ", " +
          std::to_string(wanted[3]) + "]: one bit per node of k's " + text(key.shape))
             .c_str());
  if (graph.shape[1] != 1 && graph.shape[1] != heads)
    throw Error{kInvalidArgument, "graph has " + std::to_string(graph.shape[1]) + " groups, expected 1 or the " +
                                      std::to_string(heads) + " heads"};
  if (bias.data || !bias.shape.empty())
    expect("bias", bias.shape, {heads, rows, nodes}, ("[H, M, N] = " + text({heads, rows, nodes})).c_str());
  const keygraph_attention_shape shape{q[0], heads, graph.shape[1], rows, nodes, channels, value_channels, heads_last};
  const float scale = kernel.has_scale ? kernel.scale : 1.0f / std::sqrt(static_cast<float>(channels > 0 ? channels : 1));
  void* output = kernel.output(context, heads_last ? Shape{q[0], rows, value.shape[2]}
                                                   : Shape{q[0], heads, rows, value_channels});
  SessionThreads threads{kernel.api, context};
  const keygraph_parallel parallel{&SessionThreads::run, &threads};
  check(keygraph_cpu_key_graph_attention(&shape, kernel.dtype, query.data, key.data, value.data,
                                         static_cast<const int32_t*>(graph.data), bias.data, scale, output, &parallel),
        threads);
}

// ---- shape inference ----

// A shape at the time a model is loaded: sizes that are known, or named, or neither.
struct Symbolic {
  std::vector<int64_t> sizes;
  std::vector<std::string> names;
  ElementType type = kUndefined;
  bool known(size_t i) const { return sizes[i] >= 0 || !names[i].empty(); }
};

// All sizes, or none where the model does not say how many there are.
Symbolic input_shape(const Api* api, const OrtShapeInferContext* context, size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
  check(api->ShapeInferContext_GetInputTypeShape(context, index, &info));
  size_t rank = 0;
  check(api->GetDimensionsCount(info, &rank));
  Symbolic shape;
  if (rank < 3) return shape;
  std::vector<const char*> names(rank);
  shape.sizes.resize(rank);
  check(api->GetTensorElementType(info, &shape.type));
  check(api->GetDimensions(info, shape.sizes.data(), rank));
  check(api->GetSymbolicDimensions(info, names.data(), rank));
  for (size_t i = 0; i < rank; ++i) shape.names.emplace_back(shape.sizes[i] < 0 && names[i] ? names[i] : "");
  return shape;
}

void set_output_shape(const Api* api, const OrtShapeInferContext* context, const Symbolic& shape) {
  for (size_t i = 0; i < shape.sizes.size(); ++i)
    if (!shape.known(i)) return;  // a size without a name cannot be said
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->CreateTensorTypeAndShapeInfo(&info));
  std::vector<const char*> names;
  for (const std::string& name : shape.names) names.push_back(name.c_str());
  OrtStatus* status = api->SetTensorElementType(info, shape.type);
  if (!status) status = api->SetDimensions(info, shape.sizes.data(), shape.sizes.size());
  if (!status) status = api->SetSymbolicDimensions(info, names.data(), names.size());
  if (!status) status = api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api->ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

// ---- the operators, as ONNX Runtime sees them ----
// An operator is registered once per element type, and the kernel is chosen by the inputs' types. ONNX Runtime takes an
// output's type from the first registration, though, or from the one input whose type is left open: for
// KeyGraphAttention that is q. That q has k's type is therefore checked when the kernel runs.

enum class Name { kKeyGraph, kKeyGraphAttention };

struct Op : CustomOp {
  Op(Name which, keygraph_dtype storage);

  Name name;
  keygraph_dtype dtype;
  ElementType element;
  mutable const Api* api = nullptr;
};

const Op& self(const CustomOp* op) { return *static_cast<const Op*>(op); }

const char* text(Name name) { return name == Name::kKeyGraph ? "KeyGraph" : "KeyGraphAttention"; }

OrtStatus* create_kernel(const CustomOp* op, const Api* api, const OrtKernelInfo* info, void** kernel) {
  const char* const name = text(self(op).name);
  return guarded(api, name, [&] {
    size_t size = 0;
    check(api->KernelInfo_GetNodeName(info, nullptr, &size));
    std::string node(size, '\0');
    check(api->KernelInfo_GetNodeName(info, node.data(), &size));
    node.resize(size ? size - 1 : 0);
    const std::string where = std::string(name) + " node '" + node + "'";
    float scale = 0;
    bool has_scale = false;
    int64_t heads = 0;
    if (self(op).name == Name::kKeyGraphAttention) {
      OrtStatus* status = api->KernelInfoGetAttribute_float(info, "scale", &scale);
      has_scale = !status;
      if (status) api->ReleaseStatus(status);
      int64_t number = 0;
      status = has_scale ? nullptr : api->KernelInfoGetAttribute_int64(info, "scale", &number);
      if (!has_scale && !status) throw Error{kInvalidArgument, "node '" + node + "': scale must be a float"};
      if (status) api->ReleaseStatus(status);
      status = api->KernelInfoGetAttribute_int64(info, "heads", &heads);
      if (status) api->ReleaseStatus(status);
    }
    *kernel = new Kernel{api, where, self(op).dtype, has_scale, scale, heads};
  });
}

template <void (*body)(const Kernel&, OrtKernelContext*)>
OrtStatus* compute(void* pointer, OrtKernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(pointer);
  return guarded(kernel.api, kernel.where, [&] { body(kernel, context); });
}

OrtStatus* infer_shape(const CustomOp* op, OrtShapeInferContext* context) {
  const Op& it = self(op);
  return guarded(it.api, text(it.name), [&] {
    Symbolic shape = input_shape(it.api, context, 0);
    const Symbolic other = input_shape(it.api, context, it.name == Name::kKeyGraph ? 1 : 2);
    if (shape.sizes.empty() || other.sizes.size() != shape.sizes.size()) return;
    if (it.name == Name::kKeyGraph) {
      if (shape.sizes.size() != 4) return;
      const int64_t nodes = other.sizes[2];
      shape.sizes[3] = nodes >= 0 ? words_of(nodes) : -1;
      shape.names[3] = nodes >= 0 || other.names[2].empty() ? "" : "ceil(" + other.names[2] + "/32)";
    } else {
      shape.sizes.back() = other.sizes.back();
      shape.names.back() = other.names.back();
    }
    if (it.name == Name::kKeyGraph) shape.type = kInt32;
    set_output_shape(it.api, context, shape);
  });
}

Op::Op(Name which, keygraph_dtype storage)
    : CustomOp{}, name(which), dtype(storage), element(storage == KEYGRAPH_FLOAT32 ? kFloat : kFloat16) {
  version = kApiVersion;
  GetName = [](const CustomOp* op) { return text(self(op).name); };
  GetExecutionProviderType = [](const CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const CustomOp* op) -> size_t { return self(op).name == Name::kKeyGraph ? 3 : 5; };
  GetInputType = [](const CustomOp* op, size_t index) {
    if (self(op).name == Name::kKeyGraph) return index == 2 ? kInt64 : self(op).element;
    return index == 3 ? kInt32 : index == 0 ? kUndefined : self(op).element;
  };
  GetOutputTypeCount = [](const CustomOp*) -> size_t { return 1; };
  GetOutputType = [](const CustomOp* op, size_t) { return self(op).name == Name::kKeyGraph ? kInt32 : kUndefined; };
  GetInputCharacteristic = [](const CustomOp* op, size_t index) {
    return self(op).name == Name::kKeyGraphAttention && index == 4 ? kOptional : kRequired;
  };
  GetOutputCharacteristic = [](const CustomOp*, size_t) { return kRequired; };
  GetInputMemoryType = [](const CustomOp*, size_t) { return kMemoryDefault; };
  // Asked for only of variadic inputs and outputs, of which there are none.
  GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
  GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
  CreateKernelV2 = create_kernel;
  KernelComputeV2 = which == Name::kKeyGraph ? compute<compute_key_graph> : compute<compute_attention>;
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  InferOutputShapeFn = infer_shape;
  GetStartVersion = [](const CustomOp*) { return 1; };
  GetEndVersion = [](const CustomOp*) { return 1; };
}

// One domain for all sessions of the process; they keep pointers to it, so it is never released.
OrtCustomOpDomain* domain_of(const Api* api) {
  static std::mutex mutex;
  static OrtCustomOpDomain* domain = nullptr;
  static Op ops[] = {{Name::kKeyGraph, KEYGRAPH_FLOAT32},
                     {Name::kKeyGraph, KEYGRAPH_FLOAT16},
                     {Name::kKeyGraphAttention, KEYGRAPH_FLOAT32},
                     {Name::kKeyGraphAttention, KEYGRAPH_FLOAT16}};
  const std::lock_guard<std::mutex> lock(mutex);
  if (!domain) {
    OrtCustomOpDomain* created = nullptr;
    check(api->CreateCustomOpDomain("keygraph", &created));
    for (Op& op : ops) {
      op.api = api;
      check(api->CustomOpDomain_Add(created, &op));
    }
    domain = created;
  }
  return domain;
}

}  // namespace
}  // namespace keygraph::ort

extern "C" KEYGRAPH_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                        const keygraph::ort::ApiBase* base) {
  using namespace keygraph::ort;
  const Api* api = base->GetApi(kApiVersion);
  if (!api) {
    // Creating a status has been in the table since its first version.
    const Api* first = base->GetApi(1);
    return first ? first->CreateStatus(kNotImplemented, "libkeygraph_ort needs ONNX Runtime 1.17 or newer") : nullptr;
  }
  return guarded(api, "libkeygraph_ort", [&] {
    if (!keygraph_cpu_isa()) throw Error{kInvalidArgument, keygraph_status_message(KEYGRAPH_BAD_ISA)};
    check(api->AddCustomOpDomain(options, domain_of(api)));
  });
}
