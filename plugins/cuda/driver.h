// SPDX-License-Identifier: Apache-2.0
//
// The part of the CUDA driver API that the launcher uses, declared here and opened at run time, so that nothing links
// against CUDA. driver_check.cpp compares the declarations with the official header.
#pragma once

#include <cstddef>

// The official, opaque types.
struct CUctx_st;
struct CUfunc_st;
struct CUmod_st;
struct CUstream_st;

namespace keygraph::cuda {

enum Result : int { kSuccess = 0 };

enum DeviceAttribute : int {
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kMaxSharedBytesPerBlock = 97,  // with opt-in, per kernel
};

enum FunctionAttribute : int { kMaxDynamicSharedBytes = 8 };

// Shared memory that a kernel can have without opt-in.
constexpr int kSharedBytesUnasked = 48 * 1024;

// clang-format off
struct Driver {
  Result (*Init)(unsigned flags);
  Result (*GetErrorName)(Result error, const char** name);
  Result (*GetErrorString)(Result error, const char** text);
  Result (*CtxGetCurrent)(CUctx_st** context);
  Result (*CtxGetId)(CUctx_st* context, unsigned long long* id);  // since CUDA 12; null in older drivers
  Result (*CtxGetDevice)(int* device);
  Result (*DeviceGetAttribute)(int* value, DeviceAttribute attribute, int device);
  Result (*ModuleLoadData)(CUmod_st** module, const void* image);
  Result (*ModuleGetFunction)(CUfunc_st** function, CUmod_st* module, const char* name);
  Result (*FuncSetAttribute)(CUfunc_st* function, FunctionAttribute attribute, int value);
  Result (*LaunchKernel)(CUfunc_st* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                         unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream_st* stream,
                         void** parameters, void** extra);
};
// clang-format on

// Opens and initializes libcuda.so.1 at the first call. Throws Failure (KEYGRAPH_NO_DRIVER); the next call tries again.
const Driver& driver();

// Throws Failure (KEYGRAPH_CUDA_FAILED) with the driver's message for a result other than success.
void check(const Driver& driver, Result result, const char* call);

}  // namespace keygraph::cuda
