// SPDX-License-Identifier: Apache-2.0
//
// The source of the kernels, compiled once per instruction set. Everything is in an unnamed namespace, and nothing of
// the C++ standard library is used: the linker may merge inline functions compiled for different instruction sets.

// For loops whose arrays must be in registers: the compiler keeps an array in memory unless the loop is unrolled early.
#if defined(__clang__)
#define KEYGRAPH_UNROLL _Pragma("unroll")
#else
#define KEYGRAPH_UNROLL _Pragma("GCC unroll 32")
#endif

#define KEYGRAPH_MEMBER inline __attribute__((always_inline))
#define KEYGRAPH_INLINE static KEYGRAPH_MEMBER

namespace keygraph::cpu {
namespace {
namespace KEYGRAPH_ISA {

#include KEYGRAPH_VECTOR_HEADER
// clang-format off: the order matters
#include "common.inl"
#include "key_graph.inl"
#include "pack_graph.inl"
#include "top_k_graph.inl"
#include "attention_sparse.inl"
#include "attention_dense.inl"
#include "attention.inl"
// clang-format on

}  // namespace KEYGRAPH_ISA
}  // namespace

#define KEYGRAPH_JOIN_(a, b) a##b
#define KEYGRAPH_JOIN(a, b) KEYGRAPH_JOIN_(a, b)
#define KEYGRAPH_TEXT_(a) #a
#define KEYGRAPH_TEXT(a) KEYGRAPH_TEXT_(a)

extern const Kernels KEYGRAPH_JOIN(kernels_, KEYGRAPH_ISA);
const Kernels KEYGRAPH_JOIN(kernels_, KEYGRAPH_ISA) = {
    KEYGRAPH_TEXT(KEYGRAPH_ISA), KEYGRAPH_ISA::graph_split,     KEYGRAPH_ISA::graph_task,
    KEYGRAPH_ISA::pack_split,    KEYGRAPH_ISA::pack_task,       KEYGRAPH_ISA::top_k_split,
    KEYGRAPH_ISA::top_k_task,    KEYGRAPH_ISA::attention_split, KEYGRAPH_ISA::attention_task};

}  // namespace keygraph::cpu
