// SPDX-License-Identifier: Apache-2.0
//
// Compiled only where the official header is found, and only for its assertions: driver.h must agree with it.
#include <cuda.h>

#include <type_traits>

#include "driver.h"

namespace ours = keygraph::cuda;

namespace {

// Our opaque types are the official ones; enumerations are compared as the integers that they are.
template <class T>
struct Plain {
  using type = std::conditional_t<std::is_enum_v<T>, int, T>;
};
template <class Result, class... Arguments>
struct Plain<Result (*)(Arguments...)> {
  using type = typename Plain<Result>::type (*)(typename Plain<Arguments>::type...);
};

// The header's macros put the newest version of a function in its place: cuCtxCreate may mean cuCtxCreate_v4. What we
// open must have no such suffix.
#define KEYGRAPH_TEXT_OF(name) #name
#define KEYGRAPH_TEXT(name) KEYGRAPH_TEXT_OF(name)
constexpr bool same(const char* a, const char* b) { return *a == *b && (*a == 0 || same(a + 1, b + 1)); }

#define KEYGRAPH_CHECK(name)                                                                                   \
  static_assert(same(KEYGRAPH_TEXT(cu##name), "cu" #name), "cu" #name " has a newer version");                 \
  static_assert(std::is_same_v<Plain<decltype(ours::Driver::name)>::type, Plain<decltype(&::cu##name)>::type>, \
                "cu" #name " has another signature")

KEYGRAPH_CHECK(Init);
KEYGRAPH_CHECK(GetErrorName);
KEYGRAPH_CHECK(GetErrorString);
KEYGRAPH_CHECK(CtxGetCurrent);
#if CUDA_VERSION >= 12000
KEYGRAPH_CHECK(CtxGetId);
#endif
KEYGRAPH_CHECK(CtxGetDevice);
KEYGRAPH_CHECK(DeviceGetAttribute);
KEYGRAPH_CHECK(ModuleLoadData);
KEYGRAPH_CHECK(ModuleGetFunction);
KEYGRAPH_CHECK(FuncSetAttribute);
KEYGRAPH_CHECK(LaunchKernel);

static_assert(int{ours::kSuccess} == CUDA_SUCCESS);
static_assert(int{ours::kCapabilityMajor} == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR &&
              int{ours::kCapabilityMinor} == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR &&
              int{ours::kMaxSharedBytesPerBlock} == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(int{ours::kMaxDynamicSharedBytes} == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);

}  // namespace
