// SPDX-License-Identifier: Apache-2.0
//
// A CUDA driver whose device is the host, under the real launcher: its kernels are the CPU's. With it the plugin's whole
// life is tested to the numbers on a machine without a GPU, and every status is the one that a GPU would give.
// KEYGRAPH_TEST_NO_DEVICE in the environment takes the device away.
#include <array>
#include <cstdlib>
#include <iterator>
#include <string>

#include "driver.h"
#include "embedded.h"
#include "failure.h"
#include "keygraph/cpu.h"

namespace keygraph::cuda {

// Per type and operator: one with limits, which wants aligned addresses, and those that take the rest.
const Variant variants[] = {
    {1, "graph_few_nodes", Operator::kKeyGraph, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 64, 0, 4, false},
    {2, "graph_any", Operator::kKeyGraph, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {3, "attention_by_two", Operator::kKeyGraphAttention, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 2, false},
    {4, "attention_any", Operator::kKeyGraphAttention, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {5, "attention_bias", Operator::kKeyGraphAttention, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 1, true},
    {11, "graph_few_nodes", Operator::kKeyGraph, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 64, 0, 4, false},
    {12, "graph_any", Operator::kKeyGraph, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {13, "attention_by_two", Operator::kKeyGraphAttention, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 2, false},
    {14, "attention_any", Operator::kKeyGraphAttention, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {15, "attention_bias", Operator::kKeyGraphAttention, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, true},
    {21, "graph_few_nodes", Operator::kKeyGraph, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 64, 0, 4, false},
    {22, "graph_any", Operator::kKeyGraph, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {23, "attention_by_two", Operator::kKeyGraphAttention, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 2, false},
    {24, "attention_any", Operator::kKeyGraphAttention, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {25, "attention_bias", Operator::kKeyGraphAttention, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, true},
    {6, "pack_wide", Operator::kPackGraph, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 4, false},
    {7, "pack_any", Operator::kPackGraph, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {8, "pack_threshold", Operator::kPackGraph, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 1, true},
    {16, "pack_wide", Operator::kPackGraph, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 8, false},
    {17, "pack_any", Operator::kPackGraph, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {18, "pack_threshold", Operator::kPackGraph, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, true},
    {26, "pack_wide", Operator::kPackGraph, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 8, false},
    {27, "pack_any", Operator::kPackGraph, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {28, "pack_threshold", Operator::kPackGraph, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, true},
    {9, "top_k", Operator::kTopKGraph, KEYGRAPH_FLOAT32, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {19, "top_k", Operator::kTopKGraph, KEYGRAPH_FLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {29, "top_k", Operator::kTopKGraph, KEYGRAPH_BFLOAT16, 1, 0, 0, 0, 0, 0, 0, 1, false},
    {36, "pack_wide", Operator::kPackGraph, KEYGRAPH_BOOL, 1, 0, 0, 0, 0, 0, 0, 16, false},
    {37, "pack_any", Operator::kPackGraph, KEYGRAPH_BOOL, 1, 0, 0, 0, 0, 0, 0, 1, false},
};
const size_t variant_count = std::size(variants);

namespace {

constexpr int kCapability = 80;

// A variant's "code" is its place in the list.
unsigned char places[std::size(variants)];
const auto images = [] {
  std::array<Image, std::size(variants)> all{};
  for (size_t i = 0; i < all.size(); ++i) {
    places[i] = static_cast<unsigned char>(i);
    all[i] = {variants[i].number, "kernel", 0, 32, 0, i, 1, 1};
  }
  return all;
}();
const Target target{kCapability, images.data(), images.size(), places, false};

int loads = 0;
int32_t launched = 0;

template <class Value>
Value argument(void** parameters, int place) {
  return *static_cast<Value*>(parameters[place]);
}

// k below 1 keeps one node, as the GPU's kernels do.
keygraph_status key_graph(const Variant& variant, unsigned grid, void** p) {
  const int64_t rows = argument<int32_t>(p, 4), nodes = argument<int32_t>(p, 5), channels = argument<int32_t>(p, 6);
  const keygraph_graph_shape shape{grid / rows, 1, rows, nodes, channels};
  const int64_t k = *argument<const int64_t*>(p, 2);
  return keygraph_cpu_key_graph(&shape, variant.dtype, argument<const void*>(p, 0), argument<const void*>(p, 1),
                                k < 1 ? 1 : k, argument<int32_t*>(p, 3), nullptr);
}

keygraph_status pack_graph(const Variant& variant, unsigned grid, void** p) {
  const int64_t rows = argument<int32_t>(p, 3), nodes = argument<int32_t>(p, 4);
  const keygraph_pack_shape shape{grid / rows, 1, rows, nodes};
  return keygraph_cpu_pack_graph(&shape, variant.dtype, argument<const void*>(p, 0), argument<const void*>(p, 1),
                                 argument<int32_t*>(p, 2), nullptr);
}

// k below 1 keeps one node, as in `key_graph`.
keygraph_status top_k_graph(const Variant& variant, unsigned grid, void** p) {
  const int64_t rows = argument<int32_t>(p, 3), nodes = argument<int32_t>(p, 4);
  const keygraph_pack_shape shape{grid / rows, 1, rows, nodes};
  const int64_t k = *argument<const int64_t*>(p, 1);
  return keygraph_cpu_top_k_graph(&shape, variant.dtype, argument<const void*>(p, 0), k < 1 ? 1 : k,
                                  argument<int32_t*>(p, 2), nullptr);
}

keygraph_status key_graph_attention(const Variant& variant, unsigned grid, void** p) {
  const int64_t rows = argument<int32_t>(p, 6), nodes = argument<int32_t>(p, 7), heads = argument<int32_t>(p, 8),
                groups = argument<int32_t>(p, 9), channels = argument<int32_t>(p, 10),
                value_channels = argument<int32_t>(p, 11), heads_last = argument<int32_t>(p, 12),
                bias_windows = argument<int32_t>(p, 13);
  const keygraph_attention_shape shape{grid / rows, heads,          groups,     rows,        nodes,
                                       channels,    value_channels, heads_last, bias_windows};
  return keygraph_cpu_key_graph_attention(&shape, variant.dtype, argument<const void*>(p, 0),
                                          argument<const void*>(p, 1), argument<const void*>(p, 2),
                                          argument<const int32_t*>(p, 3), argument<const void*>(p, 4),
                                          argument<float>(p, 14), argument<void*>(p, 5), nullptr);
}

Result launch(CUfunc_st* function, unsigned grid, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
              CUstream_st*, void** parameters, void**) {
  const auto& variant = *reinterpret_cast<const Variant*>(function);
  launched = variant.number;
  const auto kernel = variant.op == Operator::kKeyGraph    ? key_graph
                      : variant.op == Operator::kPackGraph ? pack_graph
                      : variant.op == Operator::kTopKGraph ? top_k_graph
                                                           : key_graph_attention;
  return static_cast<Result>(kernel(variant, grid, parameters));
}

Driver host() {
  Driver driver{};
  driver.GetErrorName = [](Result, const char** name) {
    *name = "the CPU kernel";
    return kSuccess;
  };
  driver.GetErrorString = [](Result error, const char** text) {
    *text = keygraph_status_message(static_cast<keygraph_status>(error));
    return kSuccess;
  };
  driver.CtxGetCurrent = [](CUctx_st** context) {
    static char only;
    *context = reinterpret_cast<CUctx_st*>(&only);
    return kSuccess;
  };
  driver.CtxGetDevice = [](int* device) {
    *device = 0;
    return kSuccess;
  };
  driver.DeviceGetAttribute = [](int* value, DeviceAttribute attribute, int) {
    *value = attribute == kCapabilityMajor ? kCapability / 10 : attribute == kCapabilityMinor ? kCapability % 10 : 0;
    return kSuccess;
  };
  driver.ModuleLoadData = [](CUmod_st** module, const void* code) {
    ++loads;
    const size_t place = *static_cast<const unsigned char*>(code);
    *module = reinterpret_cast<CUmod_st*>(const_cast<Variant*>(&variants[place]));
    return kSuccess;
  };
  driver.ModuleGetFunction = [](CUfunc_st** function, CUmod_st* module, const char*) {
    *function = reinterpret_cast<CUfunc_st*>(module);
    return kSuccess;
  };
  driver.LaunchKernel = launch;
  return driver;
}

}  // namespace

const Target* const targets[] = {&target};
const size_t target_count = std::size(targets);

std::vector<char> code_of(const Target& of, const Image& image) {
  return {of.data + image.offset, of.data + image.offset + 1};
}

const Driver& driver() {
  static const Driver opened = host();
  if (std::getenv("KEYGRAPH_TEST_NO_DEVICE")) throw Failure{KEYGRAPH_NO_DRIVER, "there is no device"};
  return opened;
}

void check(const Driver& driver, Result result, const char* call) {
  if (result == kSuccess) return;
  const char* text = nullptr;
  driver.GetErrorString(result, &text);
  throw Failure{KEYGRAPH_CUDA_FAILED, std::string(call) + " fails: " + text};
}

}  // namespace keygraph::cuda

// For the harness: the variant of the last launch, and how many kernels have been loaded.
extern "C" KEYGRAPH_EXPORT int32_t keygraph_test_launched(void) { return keygraph::cuda::launched; }
extern "C" KEYGRAPH_EXPORT int32_t keygraph_test_loads(void) { return keygraph::cuda::loads; }
