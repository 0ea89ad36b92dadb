// SPDX-License-Identifier: Apache-2.0
//
// PackGraph. Rows are independent, and a word takes 32 elements: bound by reading the mask.

constexpr int64_t kPackTaskBytes = 1 << 18;  // of the mask; long enough to hide the cost of dispatching a task

KEYGRAPH_INLINE size_t mask_bytes(keygraph_dtype dtype) { return dtype == KEYGRAPH_BOOL ? 1 : size_of(dtype); }

static int64_t pack_rows_per_task(const PackProblem& p) {
  const int64_t row_bytes = p.nodes * static_cast<int64_t>(mask_bytes(p.dtype));
  return least(p.rows, most(1, kPackTaskBytes / row_bytes));
}

static Split pack_split(const PackProblem& p) {
  return {static_cast<size_t>(split_up(p.rows, pack_rows_per_task(p))), 64};  // no memory is needed, but null means that there is none
}

// Elements of a mask, and what selects them: one struct per storage type, without and with a threshold.
struct Bytes {
  using Element = uint8_t;
  uint32_t word(const uint8_t* p) const { return nonzero_bytes(p); }
};
struct Halves {
  using Element = uint16_t;
  uint32_t word(const uint16_t* p) const { return nonzero_halves(p); }
};
struct Floats {  // by their bits: numbers that the processor may take for 0 are not zero
  using Element = float;
  KEYGRAPH_MEMBER uint32_t word(const float* p) const {
    uint32_t word = 0;
    KEYGRAPH_UNROLL
    for (int i = 0; i < 32; i += W)
      word |= lane_bits(igt(iand(bits(load(p + i)), iset1(0x7fffffff)), iset1(0))) << i;
    return word;
  }
};
struct FloatsFrom {
  using Element = float;
  F threshold;
  KEYGRAPH_MEMBER uint32_t word(const float* p) const {
    uint32_t word = 0;
    KEYGRAPH_UNROLL
    for (int i = 0; i < 32; i += W) word |= lane_bits(ge(load(p + i), threshold)) << i;
    return word;
  }
};
template <bool half>
struct HalvesFrom {
  using Element = uint16_t;
  F threshold;
  KEYGRAPH_MEMBER uint32_t word(const uint16_t* p) const {
    uint32_t word = 0;
    KEYGRAPH_UNROLL
    for (int i = 0; i < 32; i += W)
      word |= lane_bits(ge(half ? load_half(p + i) : load_bfloat(p + i), threshold)) << i;
    return word;
  }
};

template <class Test>
static void pack_row(const Test& test, const void* mask, int64_t row, int64_t nodes, int32_t* words) {
  const typename Test::Element* p = static_cast<const typename Test::Element*>(mask) + row * nodes;
  for (int64_t left = nodes; left >= 32; left -= 32, p += 32) *words++ = static_cast<int32_t>(test.word(p));
  const int64_t left = nodes % 32;
  if (left == 0) return;
  typename Test::Element last[32] = {};
  memcpy(last, p, static_cast<size_t>(left) * sizeof *p);
  *words = static_cast<int32_t>(test.word(last) & ((uint32_t{1} << left) - 1));
}

// A row's threshold in all lanes.
KEYGRAPH_INLINE F threshold_of(const PackProblem& p, int64_t row) {
  float wide[1];
  widen(p.dtype, p.threshold, row, 1, 1.0f, wide, 1);
  return set1(wide[0]);
}

static void pack_task(const PackProblem& p, size_t task, char*) {
  const int64_t count = pack_rows_per_task(p), first = static_cast<int64_t>(task) * count;
  for (int64_t row = first; row < least(first + count, p.rows); ++row) {
    int32_t* const words = p.graph + row * p.words;
    if (p.dtype == KEYGRAPH_BOOL)
      pack_row(Bytes{}, p.mask, row, p.nodes, words);
    else if (p.dtype == KEYGRAPH_FLOAT32 && !p.threshold)
      pack_row(Floats{}, p.mask, row, p.nodes, words);
    else if (!p.threshold)
      pack_row(Halves{}, p.mask, row, p.nodes, words);
    else if (p.dtype == KEYGRAPH_FLOAT32)
      pack_row(FloatsFrom{threshold_of(p, row)}, p.mask, row, p.nodes, words);
    else if (p.dtype == KEYGRAPH_FLOAT16)
      pack_row(HalvesFrom<true>{threshold_of(p, row)}, p.mask, row, p.nodes, words);
    else
      pack_row(HalvesFrom<false>{threshold_of(p, row)}, p.mask, row, p.nodes, words);
  }
}
