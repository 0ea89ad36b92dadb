// SPDX-License-Identifier: Apache-2.0
//
// The GPU operators' C interface, computed by the CPU kernels in host memory: with it the plugin's whole life is tested
// to the numbers on a machine without a GPU. The "device" has four variants, two per operator: one that fits everything
// and one with a limit. In the environment, KEYGRAPH_TEST_NO_DEVICE takes the device away, KEYGRAPH_TEST_UNALIGNED says that
// the tensors' addresses fit the automatic choice only.
#include <algorithm>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "keygraph/cpu.h"
#include "keygraph/cuda.h"

namespace {

enum : keygraph_variant { kGraphAny = 1, kGraphFewNodes = 2, kAttentionAny = 3, kAttentionNoBias = 4 };
constexpr int64_t kFewNodes = 64;

std::string error;
std::set<keygraph_variant> prepared;
keygraph_variant launched = 0;

bool no_device() { return std::getenv("KEYGRAPH_TEST_NO_DEVICE"); }

keygraph_status fail(keygraph_status status, const std::string& message) {
  error = message;
  return status;
}

int32_t give(const std::vector<keygraph_variant>& all, int32_t capability, keygraph_variant* variants,
             int32_t capacity) {
  if (capability == 0 && no_device()) {
    fail(KEYGRAPH_NO_DRIVER, "there is no device");
    return 0;
  }
  std::copy_n(all.begin(), std::min<size_t>(all.size(), std::max(capacity, 0)), variants);
  return static_cast<int32_t>(all.size());
}

// As on a device: a launch that was not prepared would load a kernel, which must not happen while a graph is captured.
template <class Call>
keygraph_status launch(const std::vector<keygraph_variant>& all, keygraph_variant variant, Call call) {
  if (no_device()) return fail(KEYGRAPH_NO_DRIVER, "there is no device");
  if (variant == KEYGRAPH_AUTOMATIC)
    prepared.insert(variant = all.front());
  else if (std::getenv("KEYGRAPH_TEST_UNALIGNED"))
    return fail(KEYGRAPH_NO_KERNEL, "the addresses are not aligned");
  if (std::find(all.begin(), all.end(), variant) == all.end())
    return fail(KEYGRAPH_NO_KERNEL, "variant " + std::to_string(variant) + " does not fit");
  if (!prepared.count(variant)) return fail(KEYGRAPH_CUDA_FAILED, "variant " + std::to_string(variant) + " was not prepared");
  launched = variant;
  const keygraph_status status = call();
  return status == KEYGRAPH_OK ? status : fail(status, keygraph_status_message(status));
}

std::vector<keygraph_variant> graph_variants(const keygraph_graph_shape& shape) {
  return shape.nodes <= kFewNodes ? std::vector<keygraph_variant>{kGraphFewNodes, kGraphAny}
                                  : std::vector<keygraph_variant>{kGraphAny};
}

std::vector<keygraph_variant> attention_variants(bool has_bias) {
  return has_bias ? std::vector<keygraph_variant>{kAttentionAny}
                  : std::vector<keygraph_variant>{kAttentionAny, kAttentionNoBias};
}

}  // namespace

extern "C" {

keygraph_status keygraph_cuda_key_graph(const keygraph_graph_shape* shape, keygraph_dtype dtype, const void* query,
                                        const void* key, const int64_t* k, int32_t* graph, keygraph_variant variant,
                                        keygraph_stream) {
  return launch(graph_variants(*shape), variant,
                [&] { return keygraph_cpu_key_graph(shape, dtype, query, key, *k, graph, nullptr); });
}

keygraph_status keygraph_cuda_key_graph_attention(const keygraph_attention_shape* shape, keygraph_dtype dtype,
                                                  const void* q, const void* k, const void* v, const int32_t* graph,
                                                  const void* bias, float scale, void* output,
                                                  keygraph_variant variant, keygraph_stream) {
  return launch(attention_variants(bias), variant, [&] {
    return keygraph_cpu_key_graph_attention(shape, dtype, q, k, v, graph, bias, scale, output, nullptr);
  });
}

int32_t keygraph_cuda_key_graph_variants(const keygraph_graph_shape* shape, keygraph_dtype, int32_t capability,
                                         keygraph_variant* variants, int32_t capacity) {
  return give(graph_variants(*shape), capability, variants, capacity);
}

int32_t keygraph_cuda_key_graph_attention_variants(const keygraph_attention_shape*, keygraph_dtype, int32_t has_bias,
                                                   int32_t capability, keygraph_variant* variants, int32_t capacity) {
  return give(attention_variants(has_bias), capability, variants, capacity);
}

keygraph_status keygraph_cuda_prepare(keygraph_variant variant) {
  if (no_device()) return fail(KEYGRAPH_NO_DRIVER, "there is no device");
  prepared.insert(variant);
  return KEYGRAPH_OK;
}

int32_t keygraph_cuda_targets(int32_t* targets, int32_t capacity) {
  if (capacity > 0) targets[0] = 80;
  return 1;
}

const char* keygraph_cuda_error(void) { return error.c_str(); }

// For the harness: the variant of the last launch.
KEYGRAPH_EXPORT keygraph_variant keygraph_test_launched(void) { return launched; }
}
