// SPDX-License-Identifier: Apache-2.0
//
// Compiled only where the official header is found, and only for its assertions: ort_api.h must agree with it in the
// place and the signature of every function that we use.
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>

#include "ort_api.h"

namespace ours = keygraph::ort;

namespace {

// Our types correspond to the official ones of the same name; enumerations are compared as integers.
template <class T, class = void>
struct Plain {
  using type = T;
};
template <class T>
struct Plain<T, std::enable_if_t<std::is_enum_v<T>>> {
  using type = std::enable_if_t<sizeof(T) == sizeof(int), int>;
};
template <class T>
struct Plain<T*> {
  using type = typename Plain<T>::type*;
};
template <class T>
struct Plain<const T> {
  using type = const typename Plain<T>::type;
};
template <>
struct Plain<ours::Api> {
  using type = OrtApi;
};
template <>
struct Plain<ours::CustomOp> {
  using type = OrtCustomOp;
};
template <class Result, class... Arguments>
struct Plain<Result (*)(Arguments...)> {
  using type = typename Plain<Result>::type (*)(typename Plain<Arguments>::type...);
};
template <class Result, class... Arguments>
struct Plain<Result (*)(Arguments...) noexcept> {
  using type = typename Plain<Result>::type (*)(typename Plain<Arguments>::type...);
};

#define KEYGRAPH_CHECK(our_struct, official_struct, name)                                                              \
  static_assert(offsetof(our_struct, name) == offsetof(official_struct, name), #name " stands elsewhere");             \
  static_assert(std::is_same_v<Plain<decltype(our_struct::name)>::type, Plain<decltype(official_struct::name)>::type>, \
                #name " has another signature")
#define KEYGRAPH_CHECK_API(name) KEYGRAPH_CHECK(ours::Api, OrtApi, name)
#define KEYGRAPH_CHECK_OP(name) KEYGRAPH_CHECK(ours::CustomOp, OrtCustomOp, name)

KEYGRAPH_CHECK_API(CreateStatus);
KEYGRAPH_CHECK_API(GetErrorMessage);
KEYGRAPH_CHECK_API(CreateEnv);
KEYGRAPH_CHECK_API(CreateSession);
KEYGRAPH_CHECK_API(Run);
KEYGRAPH_CHECK_API(CreateSessionOptions);
KEYGRAPH_CHECK_API(SetSessionLogSeverityLevel);
KEYGRAPH_CHECK_API(SetIntraOpNumThreads);
KEYGRAPH_CHECK_API(CreateCustomOpDomain);
KEYGRAPH_CHECK_API(CustomOpDomain_Add);
KEYGRAPH_CHECK_API(AddCustomOpDomain);
KEYGRAPH_CHECK_API(SessionGetInputCount);
KEYGRAPH_CHECK_API(SessionGetOutputCount);
KEYGRAPH_CHECK_API(SessionGetInputTypeInfo);
KEYGRAPH_CHECK_API(SessionGetInputName);
KEYGRAPH_CHECK_API(SessionGetOutputName);
KEYGRAPH_CHECK_API(CreateTensorWithDataAsOrtValue);
KEYGRAPH_CHECK_API(GetTensorMutableData);
KEYGRAPH_CHECK_API(CastTypeInfoToTensorInfo);
KEYGRAPH_CHECK_API(CreateTensorTypeAndShapeInfo);
KEYGRAPH_CHECK_API(SetTensorElementType);
KEYGRAPH_CHECK_API(SetDimensions);
KEYGRAPH_CHECK_API(GetTensorElementType);
KEYGRAPH_CHECK_API(GetDimensionsCount);
KEYGRAPH_CHECK_API(GetDimensions);
KEYGRAPH_CHECK_API(GetSymbolicDimensions);
KEYGRAPH_CHECK_API(GetTensorTypeAndShape);
KEYGRAPH_CHECK_API(CreateCpuMemoryInfo);
KEYGRAPH_CHECK_API(AllocatorFree);
KEYGRAPH_CHECK_API(GetAllocatorWithDefaultOptions);
KEYGRAPH_CHECK_API(KernelInfoGetAttribute_float);
KEYGRAPH_CHECK_API(KernelInfoGetAttribute_int64);
KEYGRAPH_CHECK_API(KernelContext_GetInputCount);
KEYGRAPH_CHECK_API(KernelContext_GetInput);
KEYGRAPH_CHECK_API(KernelContext_GetOutput);
KEYGRAPH_CHECK_API(ReleaseEnv);
KEYGRAPH_CHECK_API(ReleaseStatus);
KEYGRAPH_CHECK_API(ReleaseMemoryInfo);
KEYGRAPH_CHECK_API(ReleaseSession);
KEYGRAPH_CHECK_API(ReleaseValue);
KEYGRAPH_CHECK_API(ReleaseTypeInfo);
KEYGRAPH_CHECK_API(ReleaseTensorTypeAndShapeInfo);
KEYGRAPH_CHECK_API(ReleaseSessionOptions);
KEYGRAPH_CHECK_API(SessionGetModelMetadata);
KEYGRAPH_CHECK_API(ModelMetadataLookupCustomMetadataMap);
KEYGRAPH_CHECK_API(ReleaseModelMetadata);
KEYGRAPH_CHECK_API(AddSessionConfigEntry);
KEYGRAPH_CHECK_API(KernelContext_GetGPUComputeStream);
KEYGRAPH_CHECK_API(RegisterCustomOpsLibrary_V2);
KEYGRAPH_CHECK_API(KernelInfo_GetNodeName);
KEYGRAPH_CHECK_API(ShapeInferContext_GetInputCount);
KEYGRAPH_CHECK_API(ShapeInferContext_GetInputTypeShape);
KEYGRAPH_CHECK_API(ShapeInferContext_SetOutputTypeShape);
KEYGRAPH_CHECK_API(SetSymbolicDimensions);
KEYGRAPH_CHECK_API(KernelContext_ParallelFor);

KEYGRAPH_CHECK(ours::ApiBase, OrtApiBase, GetApi);
KEYGRAPH_CHECK(ours::ApiBase, OrtApiBase, GetVersionString);

KEYGRAPH_CHECK_OP(version);
KEYGRAPH_CHECK_OP(CreateKernel);
KEYGRAPH_CHECK_OP(GetName);
KEYGRAPH_CHECK_OP(GetExecutionProviderType);
KEYGRAPH_CHECK_OP(GetInputType);
KEYGRAPH_CHECK_OP(GetInputTypeCount);
KEYGRAPH_CHECK_OP(GetOutputType);
KEYGRAPH_CHECK_OP(GetOutputTypeCount);
KEYGRAPH_CHECK_OP(KernelCompute);
KEYGRAPH_CHECK_OP(KernelDestroy);
KEYGRAPH_CHECK_OP(GetInputCharacteristic);
KEYGRAPH_CHECK_OP(GetOutputCharacteristic);
KEYGRAPH_CHECK_OP(GetInputMemoryType);
KEYGRAPH_CHECK_OP(GetVariadicInputMinArity);
KEYGRAPH_CHECK_OP(GetVariadicInputHomogeneity);
KEYGRAPH_CHECK_OP(GetVariadicOutputMinArity);
KEYGRAPH_CHECK_OP(GetVariadicOutputHomogeneity);
KEYGRAPH_CHECK_OP(CreateKernelV2);
KEYGRAPH_CHECK_OP(KernelComputeV2);
KEYGRAPH_CHECK_OP(InferOutputShapeFn);
KEYGRAPH_CHECK_OP(GetStartVersion);
KEYGRAPH_CHECK_OP(GetEndVersion);

static_assert(ORT_API_VERSION >= ours::kApiVersion, "this header is older than what the adapter asks for");
static_assert(int{ours::kFail} == ORT_FAIL && int{ours::kInvalidArgument} == ORT_INVALID_ARGUMENT &&
              int{ours::kNotImplemented} == ORT_NOT_IMPLEMENTED);
static_assert(int{ours::kUndefined} == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED &&
              int{ours::kFloat} == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT &&
              int{ours::kInt32} == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 &&
              int{ours::kInt64} == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 &&
              int{ours::kBool} == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL &&
              int{ours::kFloat16} == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 &&
              int{ours::kBfloat16} == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
static_assert(int{ours::kRequired} == INPUT_OUTPUT_REQUIRED && int{ours::kOptional} == INPUT_OUTPUT_OPTIONAL);
static_assert(int{ours::kMemoryCpuInput} == OrtMemTypeCPUInput && int{ours::kMemoryDefault} == OrtMemTypeDefault);
static_assert(int{ours::kDeviceAllocator} == OrtDeviceAllocator && int{ours::kLogFatal} == ORT_LOGGING_LEVEL_FATAL);

}  // namespace
