// SPDX-License-Identifier: Apache-2.0
//
// The C interface on GPUs: checks arguments, chooses a variant, launches its kernel. No exception crosses it.
#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>

#include "../common/checks.h"
#include "context.h"
#include "keygraph/cuda.h"

namespace keygraph::cuda {
namespace {

thread_local std::string last_error;

template <class Body>
keygraph_status guarded(Body body) noexcept {
  try {
    body();
    return KEYGRAPH_OK;
  } catch (Failure& failure) {
    last_error = std::move(failure.message);
    return failure.status;
  } catch (...) {
    last_error.clear();
    return KEYGRAPH_OUT_OF_MEMORY;
  }
}

void require(keygraph_status status) {
  if (status != KEYGRAPH_OK) throw Failure{status, keygraph_status_message(status)};
}

void require_pointers(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers)
    if (!pointer) require(KEYGRAPH_NULL_POINTER);
}

// The largest power of two, up to 16, that divides all addresses. Null counts as aligned.
int64_t alignment_of(std::initializer_list<const void*> pointers) {
  uintptr_t bits = 16;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  return static_cast<int64_t>(bits & -bits);
}

void require_alignment(int64_t alignment, int64_t element_bytes) {
  if (alignment % element_bytes) require(KEYGRAPH_BAD_ALIGNMENT);
}

const Variant& named(keygraph_variant number) {
  const Variant* const variant = variant_of(number);
  if (!variant) throw Failure{KEYGRAPH_NO_KERNEL, "there is no variant " + std::to_string(number)};
  return *variant;
}

const Usable& usable_on(const Context& context, const Variant& variant) {
  for (const Usable& usable : context.usable())
    if (usable.variant == &variant) return usable;
  if (!context.target()) throw_no_target(context.capability());
  throw Failure{KEYGRAPH_NO_KERNEL,
                std::string(variant.name) + " is not for this GPU: it needs a newer one, or more shared memory"};
}

// Throws the reason of the variant that came closest to fitting.
[[noreturn]] void throw_none_fits(const std::vector<Usable>& usable, const Problem& problem) {
  const Variant* closest = nullptr;
  Misfit least = Misfit::kNone;
  for (const Usable& one : usable)
    if (const Misfit why = misfit(*one.variant, problem); why > least) least = why, closest = one.variant;
  if (!closest) throw Failure{KEYGRAPH_NO_KERNEL, keygraph_status_message(KEYGRAPH_NO_KERNEL)};
  throw explain(least, *closest, problem);
}

// The variant asked for, or the first that fits.
const Usable& choose(const Context& context, const Problem& problem, keygraph_variant number) {
  if (number != KEYGRAPH_AUTOMATIC) {
    const Variant& variant = named(number);
    if (const Misfit why = misfit(variant, problem); why != Misfit::kNone) throw explain(why, variant, problem);
    return usable_on(context, variant);
  }
  if (!context.target()) throw_no_target(context.capability());
  for (const Usable& usable : context.usable())
    if (misfit(*usable.variant, problem) == Misfit::kNone) return usable;
  throw_none_fits(context.usable(), problem);
}

// `arguments`: pointers to the kernel's arguments, without those that Triton appends.
template <size_t count>
void launch(const Problem& problem, keygraph_variant number, keygraph_stream stream,
            const std::array<void*, count>& arguments) {
  const std::shared_ptr<Context> context = Context::current();
  const Usable& usable = choose(*context, problem, number);
  const Kernel kernel = context->kernel(usable);
  constexpr size_t kMostAdded = 4;
  std::array<void*, count + kMostAdded> parameters{};
  void* no_scratch = nullptr;
  std::fill(std::copy(arguments.begin(), arguments.end(), parameters.begin()), parameters.end(), &no_scratch);
  if (static_cast<size_t>(kernel.image->parameters) > parameters.size())
    throw Failure{KEYGRAPH_NO_KERNEL,
                  std::string(usable.variant->name) + " has parameters that this library does not know"};
  const Driver& driver = cuda::driver();
  check(driver,
        driver.LaunchKernel(kernel.function, static_cast<unsigned>(grid_of(*usable.variant, problem)), 1, 1,
                            static_cast<unsigned>(kernel.image->threads), 1, 1,
                            static_cast<unsigned>(kernel.image->shared_bytes), static_cast<CUstream_st*>(stream),
                            parameters.data(), nullptr),
        usable.variant->name);
}

// Returns how many variants can compute a problem, and writes the first `capacity` of them.
int32_t list_variants(const Problem& problem, int32_t capability, keygraph_variant* numbers, int32_t capacity) {
  std::vector<Usable> usable;
  if (capability == 0) {
    const std::shared_ptr<Context> context = Context::current();
    capability = context->capability();
    usable = context->usable();
  } else {
    usable = usable_variants(target_for(capability), shared_bytes_for(capability));
  }
  if (!target_for(capability)) throw_no_target(capability);
  int32_t count = 0;
  for (const Usable& one : usable) {
    if (misfit(*one.variant, problem) != Misfit::kNone) continue;
    if (numbers && count < capacity) numbers[count] = one.variant->number;
    ++count;
  }
  if (count == 0) throw_none_fits(usable, problem);
  return count;
}

}  // namespace
}  // namespace keygraph::cuda

using namespace keygraph::cuda;

extern "C" keygraph_status keygraph_cuda_key_graph(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                   const void* query, const void* key, const int64_t* k, int32_t* graph,
                                                   keygraph_variant variant, keygraph_stream stream) {
  return guarded([&] {
    require(keygraph::check(shape, dtype));
    Problem problem = problem_of(*shape, dtype);
    if (problem.windows == 0 || shape->rows == 0 || shape->nodes == 0) return;
    require_pointers({graph, k});
    if (shape->channels != 0) require_pointers({query, key});
    problem.alignment = alignment_of({query, key});
    require_alignment(problem.alignment, bytes_of(dtype));
    require_alignment(alignment_of({graph}), sizeof *graph);
    require_alignment(alignment_of({k}), sizeof *k);
    int32_t rows = static_cast<int32_t>(shape->rows), nodes = static_cast<int32_t>(shape->nodes),
            channels = static_cast<int32_t>(shape->channels);
    launch<7>(problem, variant, stream, {&query, &key, &k, &graph, &rows, &nodes, &channels});
  });
}

extern "C" keygraph_status keygraph_cuda_pack_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                    const void* mask, const void* threshold, int32_t* graph,
                                                    keygraph_variant variant, keygraph_stream stream) {
  return guarded([&] {
    require(keygraph::check(shape, dtype, threshold != nullptr));
    Problem problem = problem_of(*shape, dtype, threshold != nullptr);
    if (problem.windows == 0 || shape->rows == 0 || shape->nodes == 0) return;
    require_pointers({mask, graph});
    problem.alignment = alignment_of({mask});
    require_alignment(problem.alignment, bytes_of(dtype));
    require_alignment(alignment_of({threshold}), bytes_of(dtype));
    require_alignment(alignment_of({graph}), sizeof *graph);
    int32_t rows = static_cast<int32_t>(shape->rows), nodes = static_cast<int32_t>(shape->nodes);
    launch<5>(problem, variant, stream, {&mask, &threshold, &graph, &rows, &nodes});
  });
}

extern "C" keygraph_status keygraph_cuda_top_k_graph(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                     const void* scores, const int64_t* k, int32_t* graph,
                                                     keygraph_variant variant, keygraph_stream stream) {
  return guarded([&] {
    require(keygraph::check(shape, dtype, true));
    Problem problem = top_k_problem_of(*shape, dtype);
    if (problem.windows == 0 || shape->rows == 0 || shape->nodes == 0) return;
    require_pointers({scores, k, graph});
    problem.alignment = alignment_of({scores});
    require_alignment(problem.alignment, bytes_of(dtype));
    require_alignment(alignment_of({graph}), sizeof *graph);
    require_alignment(alignment_of({k}), sizeof *k);
    int32_t rows = static_cast<int32_t>(shape->rows), nodes = static_cast<int32_t>(shape->nodes);
    launch<5>(problem, variant, stream, {&scores, &k, &graph, &rows, &nodes});
  });
}

extern "C" keygraph_status keygraph_cuda_key_graph_attention(const keygraph_attention_shape* shape,
                                                             keygraph_dtype dtype, const void* q, const void* k,
                                                             const void* v, const int32_t* graph, const void* bias,
                                                             float scale, void* output, keygraph_variant variant,
                                                             keygraph_stream stream) {
  return guarded([&] {
    require(keygraph::check(shape, dtype, bias != nullptr));
    Problem problem = problem_of(*shape, dtype, bias != nullptr);
    if (shape->batch == 0 || shape->heads == 0 || shape->rows == 0 || shape->value_channels == 0) return;
    require_pointers({output});
    if (shape->nodes != 0) require_pointers({graph, v});
    if (shape->nodes != 0 && shape->channels != 0) require_pointers({q, k});
    problem.alignment = alignment_of({q, k, v, output});
    require_alignment(problem.alignment, bytes_of(dtype));
    require_alignment(alignment_of({bias}), bytes_of(dtype));
    require_alignment(alignment_of({graph}), sizeof *graph);
    int32_t rows = static_cast<int32_t>(shape->rows), nodes = static_cast<int32_t>(shape->nodes),
            heads = static_cast<int32_t>(shape->heads), groups = static_cast<int32_t>(shape->groups),
            channels = static_cast<int32_t>(shape->channels),
            value_channels = static_cast<int32_t>(shape->value_channels), heads_last = shape->heads_last != 0,
            bias_windows = bias ? static_cast<int32_t>(keygraph::windows_of(*shape)) : 1;
    launch<15>(problem, variant, stream,
               {&q, &k, &v, &graph, &bias, &output, &rows, &nodes, &heads, &groups, &channels, &value_channels,
                &heads_last, &bias_windows, &scale});
  });
}

extern "C" int32_t keygraph_cuda_key_graph_variants(const keygraph_graph_shape* shape, keygraph_dtype dtype,
                                                    int32_t capability, keygraph_variant* numbers, int32_t capacity) {
  int32_t count = 0;
  guarded([&] {
    require(keygraph::check(shape, dtype));
    count = list_variants(problem_of(*shape, dtype), capability, numbers, capacity);
  });
  return count;
}

extern "C" int32_t keygraph_cuda_pack_graph_variants(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                     int32_t has_threshold, int32_t capability,
                                                     keygraph_variant* numbers, int32_t capacity) {
  int32_t count = 0;
  guarded([&] {
    require(keygraph::check(shape, dtype, has_threshold != 0));
    count = list_variants(problem_of(*shape, dtype, has_threshold != 0), capability, numbers, capacity);
  });
  return count;
}

extern "C" int32_t keygraph_cuda_top_k_graph_variants(const keygraph_pack_shape* shape, keygraph_dtype dtype,
                                                      int32_t capability, keygraph_variant* numbers, int32_t capacity) {
  int32_t count = 0;
  guarded([&] {
    require(keygraph::check(shape, dtype, true));
    count = list_variants(top_k_problem_of(*shape, dtype), capability, numbers, capacity);
  });
  return count;
}

extern "C" int32_t keygraph_cuda_key_graph_attention_variants(const keygraph_attention_shape* shape,
                                                              keygraph_dtype dtype, int32_t has_bias,
                                                              int32_t capability, keygraph_variant* numbers,
                                                              int32_t capacity) {
  int32_t count = 0;
  guarded([&] {
    require(keygraph::check(shape, dtype, has_bias != 0));
    count = list_variants(problem_of(*shape, dtype, has_bias != 0), capability, numbers, capacity);
  });
  return count;
}

extern "C" const char* keygraph_cuda_variant_name(keygraph_variant number) {
  const Variant* const variant = variant_of(number);
  return variant ? variant->name : nullptr;
}

extern "C" keygraph_status keygraph_cuda_prepare(keygraph_variant number) {
  return guarded([&] {
    const Variant& variant = named(number);
    const std::shared_ptr<Context> context = Context::current();
    context->kernel(usable_on(*context, variant));
  });
}

extern "C" int32_t keygraph_cuda_targets(int32_t* numbers, int32_t capacity) {
  for (size_t i = 0; numbers && i < target_count && static_cast<int32_t>(i) < capacity; ++i)
    numbers[i] = targets[i]->number;
  return static_cast<int32_t>(target_count);
}

extern "C" int32_t keygraph_cuda_target(int32_t capability) {
  int32_t number = 0;
  guarded([&] {
    if (capability == 0) capability = Context::current()->capability();
    const Target* const target = target_for(capability);
    if (!target) throw_no_target(capability);
    number = target->number;
  });
  return number;
}

extern "C" const char* keygraph_cuda_error(void) { return last_error.c_str(); }
