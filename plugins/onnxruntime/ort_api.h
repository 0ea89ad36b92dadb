// SPDX-License-Identifier: Apache-2.0
//
// The part of ONNX Runtime's C API that the adapter and the C++ runtime (cpp/) use, declared here because no package
// registry has the official header for every platform. The API is a table of function pointers that is only ever
// appended to, so the slots below are valid for every version since kApiVersion. ort_api_check.cpp compares them with
// the official header.
#pragma once

#include <stddef.h>
#include <stdint.h>

// The official, opaque types.
struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeInferContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtCustomOpDomain;
struct OrtSessionOptions;
struct OrtEnv;
struct OrtSession;
struct OrtRunOptions;
struct OrtAllocator;
struct OrtMemoryInfo;
struct OrtTypeInfo;
struct OrtModelMetadata;

namespace keygraph::ort {

// 1.17 has everything we need: errors returned by kernels, shape inference, and the session's threads.
constexpr uint32_t kApiVersion = 17;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9 };
enum ElementType : int { kUndefined = 0, kFloat = 1, kInt32 = 6, kInt64 = 7, kBool = 9, kFloat16 = 10, kBfloat16 = 16 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemoryType : int { kMemoryCpuInput = -2, kMemoryDefault = 0 };
enum AllocatorType : int { kDeviceAllocator = 0 };
enum LoggingLevel : int { kLogFatal = 4 };

// clang-format off
struct Api {
  OrtStatus* (*CreateStatus)(ErrorCode code, const char* message);                                          // 0
  void* unused_1[1];
  const char* (*GetErrorMessage)(const OrtStatus* status);                                                  // 2
  OrtStatus* (*CreateEnv)(LoggingLevel level, const char* name, OrtEnv** env);                              // 3
  void* unused_4[3];
  OrtStatus* (*CreateSession)(const OrtEnv* env, const char* path, const OrtSessionOptions* options,
                              OrtSession** session);                                                        // 7
  void* unused_8[1];
  OrtStatus* (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                    const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                    size_t output_count, OrtValue** outputs);                                               // 9
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** options);                                          // 10
  void* unused_11[11];
  OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions* options, int level);                          // 22
  void* unused_23[1];
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions* options, int threads);                              // 24
  void* unused_25[1];
  OrtStatus* (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** domain);                         // 26
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const struct CustomOp* op);                   // 27
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);                   // 28
  void* unused_29[1];
  OrtStatus* (*SessionGetInputCount)(const OrtSession* session, size_t* count);                             // 30
  OrtStatus* (*SessionGetOutputCount)(const OrtSession* session, size_t* count);                            // 31
  void* unused_32[1];
  OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession* session, size_t index, OrtTypeInfo** info);       // 33
  void* unused_34[2];
  OrtStatus* (*SessionGetInputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                    char** name);                                                           // 36
  OrtStatus* (*SessionGetOutputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                     char** name);                                                          // 37
  void* unused_38[11];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* memory, void* data, size_t bytes,
                                               const int64_t* sizes, size_t count, ElementType type,
                                               OrtValue** value);                                           // 49
  void* unused_50[1];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** data);                                         // 51
  void* unused_52[3];
  OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo* info,
                                         const OrtTensorTypeAndShapeInfo** tensor);                         // 55
  void* unused_56[1];
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** info);                             // 57
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo* info, ElementType type);                    // 58
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo* info, const int64_t* sizes, size_t count);         // 59
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info, ElementType* type);             // 60
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* count);                   // 61
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* sizes, size_t count);         // 62
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info, const char** names,
                                      size_t count);                                                        // 63
  void* unused_64[1];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** info);             // 65
  void* unused_66[3];
  OrtStatus* (*CreateCpuMemoryInfo)(AllocatorType allocator, MemoryType type, OrtMemoryInfo** memory);      // 69
  void* unused_70[6];
  OrtStatus* (*AllocatorFree)(OrtAllocator* allocator, void* data);                                         // 76
  void* unused_77[1];
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator** allocator);                                   // 78
  void* unused_79[6];
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo* info, const char* name, float* value);    // 85
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* value);  // 86
  void* unused_87[1];
  OrtStatus* (*KernelContext_GetInputCount)(const OrtKernelContext* context, size_t* count);                // 88
  void* unused_89[1];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index,
                                       const OrtValue** value);                                             // 90
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* sizes,
                                        size_t count, OrtValue** value);                                    // 91
  void (*ReleaseEnv)(OrtEnv* env);                                                                          // 92
  void (*ReleaseStatus)(OrtStatus* status);                                                                 // 93
  void (*ReleaseMemoryInfo)(OrtMemoryInfo* memory);                                                         // 94
  void (*ReleaseSession)(OrtSession* session);                                                              // 95
  void (*ReleaseValue)(OrtValue* value);                                                                    // 96
  void* unused_97[1];
  void (*ReleaseTypeInfo)(OrtTypeInfo* info);                                                               // 98
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);                                   // 99
  void (*ReleaseSessionOptions)(OrtSessionOptions* options);                                                // 100
  void* unused_101[10];
  OrtStatus* (*SessionGetModelMetadata)(const OrtSession* session, OrtModelMetadata** metadata);            // 111
  void* unused_112[4];
  OrtStatus* (*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata* metadata,
                                                     OrtAllocator* allocator, const char* key,
                                                     char** value);                                         // 116
  void* unused_117[1];
  void (*ReleaseModelMetadata)(OrtModelMetadata* metadata);                                                 // 118
  void* unused_119[11];
  OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions* options, const char* key, const char* value);      // 130
  void* unused_131[62];
  OrtStatus* (*KernelContext_GetGPUComputeStream)(const OrtKernelContext* context, void** stream);          // 193
  void* unused_194[34];
  OrtStatus* (*RegisterCustomOpsLibrary_V2)(OrtSessionOptions* options, const char* path);                  // 228
  void* unused_229[15];
  OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo* info, char* name, size_t* size);                // 244
  void* unused_245[22];
  OrtStatus* (*ShapeInferContext_GetInputCount)(const OrtShapeInferContext* context, size_t* count);        // 267
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                    OrtTensorTypeAndShapeInfo** info);                      // 268
  void* unused_269[1];
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                     const OrtTensorTypeAndShapeInfo* info);                // 270
  OrtStatus* (*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo* info, const char** names, size_t count);   // 271
  void* unused_272[2];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*task)(void*, size_t),
                                          size_t tasks, size_t batches, void* argument);                    // 274
};

struct ApiBase {
  const Api* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp* op, const Api* api, const OrtKernelInfo* info);
  const char* (*GetName)(const CustomOp* op);
  const char* (*GetExecutionProviderType)(const CustomOp* op);
  ElementType (*GetInputType)(const CustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp* op);
  ElementType (*GetOutputType)(const CustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp* op, size_t index);
  Characteristic (*GetOutputCharacteristic)(const CustomOp* op, size_t index);
  MemoryType (*GetInputMemoryType)(const CustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp* op);
  int (*GetVariadicInputHomogeneity)(const CustomOp* op);
  int (*GetVariadicOutputMinArity)(const CustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const CustomOp* op);
  OrtStatus* (*CreateKernelV2)(const CustomOp* op, const Api* api, const OrtKernelInfo* info, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const CustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const CustomOp* op);
  int (*GetEndVersion)(const CustomOp* op);
};
// clang-format on

}  // namespace keygraph::ort
