// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"

#include <immintrin.h>
#include <string.h>

#define KEYGRAPH_ISA avx2
#define KEYGRAPH_VECTOR_HEADER "vector_avx2.h"
#include "kernels.inl"
