// SPDX-License-Identifier: Apache-2.0
//
// libkeygraph_ort: the operators as custom operators of ONNX Runtime, in the domain "keygraph", for the CPU provider and,
// where the library is built with the GPU's kernels, for the CUDA provider. Errors come back as OrtStatus, one line that
// names the node; no exception crosses the boundary.
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "inference.h"
#include "keygraph/cpu.h"
#include "ort_api.h"
#include "provider.h"
#include "status.h"

namespace keygraph::ort {
namespace {

// An operator is registered once per provider and element type, and the kernel is chosen by the inputs' types. But ONNX
// Runtime takes an output's type from the first registration, or from the one input whose type is left open: q for
// KeyGraphAttention. So q's type is compared with k's when the kernel runs.

struct Op : CustomOp {
  Op(const Api* api, const Provider& where, Operator which, keygraph_dtype storage);

  const Api* api;
  const Provider* provider;
  Operator name;
  keygraph_dtype dtype;
};

const Op& self(const CustomOp* op) { return *static_cast<const Op*>(op); }

// Most inputs of a node.
size_t inputs_of(Operator name) {
  return name == Operator::kKeyGraph ? 3 : name == Operator::kKeyGraphAttention ? 5 : 2;
}

const char* text(Operator name) {
  switch (name) {
    case Operator::kKeyGraph:
      return "KeyGraph";
    case Operator::kPackGraph:
      return "PackGraph";
    case Operator::kTopKGraph:
      return "TopKGraph";
    case Operator::kKeyGraphAttention:
      return "KeyGraphAttention";
  }
  return "";
}

ElementType element_of(keygraph_dtype dtype) {
  switch (dtype) {
    case KEYGRAPH_FLOAT32:
      return kFloat;
    case KEYGRAPH_FLOAT16:
      return kFloat16;
    case KEYGRAPH_BFLOAT16:
      return kBfloat16;
    case KEYGRAPH_BOOL:
      return kBool;
  }
  return kUndefined;
}

// A node, and the provider that computes it.
struct Kernel {
  Node node;
  const Provider* provider;
};

// An attribute of a node, or nothing if the node has none of this name and type.
template <class Value, class Get>
std::optional<Value> attribute(const Api* api, Get get, const OrtKernelInfo* info, const char* name) {
  Value value{};
  OrtStatus* const status = get(info, name, &value);
  if (!status) return value;
  api->ReleaseStatus(status);
  return std::nullopt;
}

OrtStatus* create_kernel(const CustomOp* op, const Api* api, const OrtKernelInfo* info, void** kernel) {
  const char* const name = text(self(op).name);
  return guarded(api, name, [&] {
    size_t size = 0;
    check(api->KernelInfo_GetNodeName(info, nullptr, &size));
    std::string node(size, '\0');
    check(api->KernelInfo_GetNodeName(info, node.data(), &size));
    node.resize(size ? size - 1 : 0);
    const std::string where = std::string(name) + " node '" + node + "'";
    std::optional<float> scale;
    std::optional<int64_t> heads;
    if (self(op).name == Operator::kKeyGraphAttention) {
      scale = attribute<float>(api, api->KernelInfoGetAttribute_float, info, "scale");
      if (!scale && attribute<int64_t>(api, api->KernelInfoGetAttribute_int64, info, "scale"))
        throw Error{kInvalidArgument, "node '" + node + "': scale must be a float"};
      heads = attribute<int64_t>(api, api->KernelInfoGetAttribute_int64, info, "heads");
    }
    *kernel = new Kernel{{api, where, self(op).dtype, scale, heads}, self(op).provider};
  });
}

template <class Body>
OrtStatus* compute(void* pointer, Body body) noexcept {
  const Kernel& kernel = *static_cast<const Kernel*>(pointer);
  return guarded(kernel.node.api, kernel.node.where, [&] { body(kernel); });
}

OrtStatus* compute_key_graph(void* pointer, OrtKernelContext* context) {
  return compute(pointer, [&](const Kernel& kernel) {
    kernel.provider->key_graph(kernel.node, context, graph_call(kernel.node, context));
  });
}

OrtStatus* compute_pack_graph(void* pointer, OrtKernelContext* context) {
  return compute(pointer, [&](const Kernel& kernel) {
    kernel.provider->pack_graph(kernel.node, context, pack_call(kernel.node, context));
  });
}

OrtStatus* compute_top_k_graph(void* pointer, OrtKernelContext* context) {
  return compute(pointer, [&](const Kernel& kernel) {
    kernel.provider->top_k_graph(kernel.node, context, top_k_call(kernel.node, context));
  });
}

OrtStatus* compute_attention(void* pointer, OrtKernelContext* context) {
  return compute(pointer, [&](const Kernel& kernel) {
    kernel.provider->key_graph_attention(kernel.node, context, attention_call(kernel.node, context));
  });
}

Op::Op(const Api* its_api, const Provider& where, Operator which, keygraph_dtype storage)
    : CustomOp{}, api(its_api), provider(&where), name(which), dtype(storage) {
  version = kApiVersion;
  GetName = [](const CustomOp* op) { return text(self(op).name); };
  GetExecutionProviderType = [](const CustomOp* op) { return self(op).provider->name; };
  GetInputTypeCount = [](const CustomOp* op) -> size_t { return inputs_of(self(op).name); };
  GetInputType = [](const CustomOp* op, size_t index) {
    if (self(op).name == Operator::kKeyGraph) return index == 2 ? kInt64 : element_of(self(op).dtype);
    if (self(op).name == Operator::kTopKGraph) return index == 1 ? kInt64 : element_of(self(op).dtype);
    if (self(op).name == Operator::kPackGraph) return element_of(self(op).dtype);
    return index == 3 ? kInt32 : index == 0 ? kUndefined : element_of(self(op).dtype);
  };
  GetOutputTypeCount = [](const CustomOp*) -> size_t { return 1; };
  GetOutputType = [](const CustomOp* op, size_t) {
    return self(op).name == Operator::kKeyGraphAttention ? kUndefined : kInt32;
  };
  GetInputCharacteristic = [](const CustomOp* op, size_t index) {
    const bool bias = self(op).name == Operator::kKeyGraphAttention && index == 4;
    const bool threshold = self(op).name == Operator::kPackGraph && index == 1;
    return bias || threshold ? kOptional : kRequired;
  };
  GetOutputCharacteristic = [](const CustomOp*, size_t) { return kRequired; };
  GetInputMemoryType = [](const CustomOp*, size_t) { return kMemoryDefault; };
  // Called for variadic inputs and outputs only, of which there are none.
  GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const CustomOp*) { return 1; };
  GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
  CreateKernelV2 = create_kernel;
  KernelComputeV2 = which == Operator::kKeyGraph    ? compute_key_graph
                    : which == Operator::kPackGraph ? compute_pack_graph
                    : which == Operator::kTopKGraph ? compute_top_k_graph
                                                    : compute_attention;
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  InferOutputShapeFn = [](const CustomOp* op, OrtShapeInferContext* context) {
    const Op& it = self(op);
    return guarded(it.api, text(it.name), [&] { infer_shape(it.api, context, it.name); });
  };
  GetStartVersion = [](const CustomOp*) { return 1; };
  GetEndVersion = [](const CustomOp*) { return 1; };
}

// One domain for all sessions of the process; they keep pointers to it, so it is never released.
OrtCustomOpDomain* domain_of(const Api* api) {
  static std::mutex mutex;
  static OrtCustomOpDomain* domain = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (!domain) {
    auto& ops = *new std::vector<Op>;
    for (const Provider* provider : {
             &cpu_provider,
#if defined(KEYGRAPH_WITH_CUDA)
             &cuda_provider,
#endif
         }) {
      for (const Operator name :
           {Operator::kKeyGraph, Operator::kPackGraph, Operator::kTopKGraph, Operator::kKeyGraphAttention})
        for (const keygraph_dtype dtype : {KEYGRAPH_FLOAT32, KEYGRAPH_FLOAT16, KEYGRAPH_BFLOAT16})
          ops.emplace_back(api, *provider, name, dtype);
      ops.emplace_back(api, *provider, Operator::kPackGraph, KEYGRAPH_BOOL);
    }
    OrtCustomOpDomain* created = nullptr;
    check(api->CreateCustomOpDomain("keygraph", &created));
    for (const Op& op : ops) check(api->CustomOpDomain_Add(created, &op));
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
    // CreateStatus is in the table since its first version.
    const Api* first = base->GetApi(1);
    return first ? first->CreateStatus(kNotImplemented, "libkeygraph_ort needs ONNX Runtime 1.17 or newer") : nullptr;
  }
  return guarded(api, "libkeygraph_ort", [&] {
    if (!keygraph_cpu_isa()) throw Error{kInvalidArgument, keygraph_status_message(KEYGRAPH_BAD_ISA)};
    check(api->AddCustomOpDomain(options, domain_of(api)));
  });
}
