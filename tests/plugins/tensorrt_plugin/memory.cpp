// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace {

class HostMemory final : public Memory {
 public:
  ~HostMemory() override {
    for (void* pointer : all_) std::free(pointer);
  }
  void* allocate(size_t size) override {
    void* pointer = nullptr;  // of exactly this size, so that AddressSanitizer sees who passes its end
    if (posix_memalign(&pointer, 256, size ? size : 1)) throw std::runtime_error("out of memory");
    all_.push_back(pointer);
    return pointer;
  }
  void write(void* to, const std::vector<char>& bytes) override {
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
  }
  void read(const void* from, std::vector<char>& bytes) override {
    if (!bytes.empty()) std::memcpy(bytes.data(), from, bytes.size());
  }
  void* stream() override { return nullptr; }
  void finish() override {}
  bool replay(const std::function<void()>&) override { return false; }

 private:
  std::vector<void*> all_;
};

// What is used of the driver's API; its types are pointers and integers.
struct Driver {
  using Address = unsigned long long;

  explicit Driver(void* library) {
    find(library, "cuInit", init);
    find(library, "cuGetErrorString", error_string);
    find(library, "cuDeviceGet", device_get);
    find(library, "cuDevicePrimaryCtxRetain", context_retain);
    find(library, "cuCtxSetCurrent", context_set);
    find(library, "cuMemAlloc_v2", allocate);
    find(library, "cuMemFree_v2", release);
    find(library, "cuMemcpyHtoD_v2", write);
    find(library, "cuMemcpyDtoH_v2", read);
    find(library, "cuStreamCreate", stream_create);
    find(library, "cuStreamSynchronize", stream_synchronize);
    find(library, "cuStreamBeginCapture_v2", capture_begin);
    find(library, "cuStreamEndCapture", capture_end);
    find(library, "cuGraphInstantiateWithFlags", graph_instantiate);
    find(library, "cuGraphLaunch", graph_launch);
  }

  void check(int status, const char* what) const {
    if (status == 0) return;
    const char* text = nullptr;
    error_string(status, &text);
    throw std::runtime_error(std::string(what) + ": " + (text ? text : "unknown error"));
  }

  int (*init)(unsigned);
  int (*error_string)(int, const char**);
  int (*device_get)(int*, int);
  int (*context_retain)(void**, int);
  int (*context_set)(void*);
  int (*allocate)(Address*, size_t);
  int (*release)(Address);
  int (*write)(Address, const void*, size_t);
  int (*read)(void*, Address, size_t);
  int (*stream_create)(void**, unsigned);
  int (*stream_synchronize)(void*);
  int (*capture_begin)(void*, int);
  int (*capture_end)(void*, void**);
  int (*graph_instantiate)(void**, void*, unsigned long long);
  int (*graph_launch)(void*, void*);

 private:
  template <class Function>
  static void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) throw std::runtime_error(std::string("libcuda.so.1 has no ") + name);
  }
};

// The process ends with the test: the context, the stream and the graphs are left to that.
class DeviceMemory final : public Memory {
 public:
  explicit DeviceMemory(const Driver& driver) : driver_(driver) {
    int device = 0;
    void* context = nullptr;
    driver_.check(driver_.init(0), "cuInit");
    driver_.check(driver_.device_get(&device, 0), "cuDeviceGet");
    driver_.check(driver_.context_retain(&context, device), "cuDevicePrimaryCtxRetain");
    driver_.check(driver_.context_set(context), "cuCtxSetCurrent");
    constexpr unsigned kNonBlocking = 1;
    driver_.check(driver_.stream_create(&stream_, kNonBlocking), "cuStreamCreate");
  }
  ~DeviceMemory() override {
    for (const Driver::Address address : all_) driver_.release(address);
  }
  void* allocate(size_t size) override {
    Driver::Address address = 0;
    driver_.check(driver_.allocate(&address, size ? size : 1), "cuMemAlloc");
    all_.push_back(address);
    return reinterpret_cast<void*>(static_cast<uintptr_t>(address));
  }
  void write(void* to, const std::vector<char>& bytes) override {
    if (bytes.empty()) return;
    driver_.check(driver_.write(number(to), bytes.data(), bytes.size()), "cuMemcpyHtoD");
    // From pageable memory it may return before the copy has arrived, and our stream does not wait for the default one.
    driver_.check(driver_.stream_synchronize(nullptr), "cuStreamSynchronize");
  }
  void read(const void* from, std::vector<char>& bytes) override {
    if (!bytes.empty()) driver_.check(driver_.read(bytes.data(), number(from), bytes.size()), "cuMemcpyDtoH");
  }
  void* stream() override { return stream_; }
  void finish() override { driver_.check(driver_.stream_synchronize(stream_), "cuStreamSynchronize"); }
  bool replay(const std::function<void()>& work) override {
    constexpr int kThreadLocal = 1;
    void *graph = nullptr, *executable = nullptr;
    driver_.check(driver_.capture_begin(stream_, kThreadLocal), "cuStreamBeginCapture");
    work();
    driver_.check(driver_.capture_end(stream_, &graph), "cuStreamEndCapture");
    driver_.check(driver_.graph_instantiate(&executable, graph, 0), "cuGraphInstantiateWithFlags");
    driver_.check(driver_.graph_launch(executable, stream_), "cuGraphLaunch");
    return true;
  }

 private:
  static Driver::Address number(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

  Driver driver_;
  void* stream_ = nullptr;
  std::vector<Driver::Address> all_;
};

}  // namespace

std::unique_ptr<Memory> host_memory() { return std::make_unique<HostMemory>(); }

std::unique_ptr<Memory> device_memory(std::string& reason) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    reason = dlerror();
    return nullptr;
  }
  try {
    return std::make_unique<DeviceMemory>(Driver(library));
  } catch (const std::runtime_error& error) {
    reason = error.what();
    return nullptr;
  }
}
