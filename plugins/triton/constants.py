"""Constants that several kernels share."""

from __future__ import annotations

import triton.language as tl

#: log2(e). The softmax's scores are multiplied by it, so that `exp2` takes the place of `exp`.
LOG2_E = tl.constexpr(1.4426950408889634)
