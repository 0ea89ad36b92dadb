// SPDX-License-Identifier: Apache-2.0
#include "kernels.h"

#include <string.h>

#define KEYGRAPH_ISA baseline
#define KEYGRAPH_VECTOR_HEADER "vector_generic.h"
#include "kernels.inl"
