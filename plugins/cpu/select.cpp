// SPDX-License-Identifier: Apache-2.0
//
// The choice of the instruction set: by what the processor and the operating system offer here, not where it was built.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "keygraph/cpu.h"

namespace keygraph::cpu {
namespace {

#if defined(KEYGRAPH_X86)
// These also check that the operating system saves the wide registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const Kernels* by_name(const char* name) {
  if (std::strcmp(name, "baseline") == 0) return &kernels_baseline;
#if defined(KEYGRAPH_X86)
  if (std::strcmp(name, "avx2") == 0 && has_avx2()) return &kernels_avx2;
  if (std::strcmp(name, "avx512") == 0 && has_avx512()) return &kernels_avx512;
#endif
  return nullptr;
}

const Kernels* automatic() {
  const char* wanted = std::getenv("KEYGRAPH_CPU_ISA");
  if (wanted && *wanted) return by_name(wanted);
  const Kernels* best = by_name("avx512");
  if (!best) best = by_name("avx2");
  return best ? best : &kernels_baseline;
}

std::atomic<const Kernels*>& choice() {
  static std::atomic<const Kernels*> chosen{automatic()};
  return chosen;
}

// Chosen while the library is loaded: a later change of the environment means nothing.
[[maybe_unused]] const bool chosen_at_load = (choice(), true);

}  // namespace

const Kernels* selected_kernels() { return choice().load(std::memory_order_acquire); }

}  // namespace keygraph::cpu

extern "C" const char* keygraph_cpu_isa(void) {
  const keygraph::cpu::Kernels* kernels = keygraph::cpu::selected_kernels();
  return kernels ? kernels->name : nullptr;
}

extern "C" keygraph_status keygraph_cpu_select_isa(const char* name) {
  const keygraph::cpu::Kernels* kernels = name ? keygraph::cpu::by_name(name) : keygraph::cpu::automatic();
  if (!kernels) return KEYGRAPH_BAD_ISA;
  keygraph::cpu::choice().store(kernels, std::memory_order_release);
  return KEYGRAPH_OK;
}
