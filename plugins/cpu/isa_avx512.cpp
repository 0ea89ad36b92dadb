// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"

#include <immintrin.h>
#include <string.h>

#define KEYGRAPH_ISA avx512
#define KEYGRAPH_VECTOR_HEADER "vector_avx512.h"
#include "kernels.inl"
