// SPDX-License-Identifier: Apache-2.0
//
// Where the harness keeps tensors: on a GPU, through the driver opened at run time, or in host memory.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

class Memory {
 public:
  virtual ~Memory() = default;
  // At least one byte, 256-byte aligned as TensorRT's; lives as long as this object. Throws std::runtime_error.
  virtual void* allocate(size_t size) = 0;
  virtual void write(void* to, const std::vector<char>& bytes) = 0;
  virtual void read(const void* from, std::vector<char>& bytes) = 0;
  virtual void* stream() = 0;
  // Waits for the stream.
  virtual void finish() = 0;
  // Captures what `work` enqueues in a CUDA graph and runs the graph; false where there are no such graphs.
  virtual bool replay(const std::function<void()>& work) = 0;
};

std::unique_ptr<Memory> host_memory();

// Null where there is no GPU, with the reason.
std::unique_ptr<Memory> device_memory(std::string& reason);
