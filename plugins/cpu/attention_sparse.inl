// SPDX-License-Identifier: Apache-2.0
//
// KeyGraphAttention where few nodes are selected: gathers the selected rows of k and v, and nothing else.
// Rows of k and v are packed, padded to whole vectors. Lists of selected nodes are padded to whole groups of W with the
// index of a row of zeros behind the packed nodes; the padding's scores are -inf, so that its weights are 0.

// Memory that will be needed soon, and that is likely in no cache. Fetching a few lines at a time between the products
// hides what it takes; all at once, the processor would wait for them just as it does without.
struct Ahead {
  static constexpr int kRanges = 4;
  const char* next[kRanges];
  const char* end[kRanges];
  int range;
};

KEYGRAPH_INLINE void fetch(Ahead& ahead) {
  if (ahead.range == Ahead::kRanges) return;
  const char*& next = ahead.next[ahead.range];
  __builtin_prefetch(next, 0, 2);
  next += 64;
  if (next >= ahead.end[ahead.range]) ++ahead.range;
}

// What one block of nodes adds to one batch of at most R rows.
struct SparseBatch {
  int64_t rows;
  const uint16_t* list;   // of all rows
  const int64_t* begin;   // [rows] where a row's nodes start in `list`; a multiple of W entries follows
  const int64_t* count;   // [rows]
  const float* q;         // [rows][key_stride], scaled by log2(e)
  const float* k;         // [nodes + 1][key_stride]
  const float* v;         // [nodes + 1][value_stride]
  const void* bias;       // of the batch's first row and the block's first node, or null
  keygraph_dtype bias_dtype;
  int64_t bias_stride;
  int64_t key_stride, value_stride;
  float* weights;         // [rows][weight_stride]
  int64_t weight_stride;
  bool first;             // whether this is the first block of nodes: nothing has been summed yet
  float* largest;         // [R] running maximum, in units of log2
  float* sum;             // [R] running sum of the weights
  float* acc;             // [rows][value_stride] running weighted sum of v
  Ahead* ahead;
};

// Products of one q with W selected rows of k. NV: vectors per row, 0 where that is known at run time only.
template <int NV>
KEYGRAPH_INLINE F score_group(const float* q, const float* k, int64_t stride, const uint16_t* index) {
  F x[W];
  KEYGRAPH_UNROLL
  for (int i = 0; i < W; ++i) {
    const float* node = k + index[i] * (NV ? NV * W : stride);
    x[i] = mul(load(q), load(node));
    if constexpr (NV != 0) {
      KEYGRAPH_UNROLL
      for (int v = 1; v < NV; ++v) x[i] = fma(load(q + v * W), load(node + v * W), x[i]);
    } else {
      for (int64_t c = W; c < stride; c += W) x[i] = fma(load(q + c), load(node + c), x[i]);
    }
  }
  return reduce<Sum, W>(x);
}

static __attribute__((noinline)) F bias_group(const SparseBatch& b, int64_t row, const uint16_t* index, int64_t valid) {
  // The padding's index lies outside the bias.
  uint16_t safe[W] = {};
  memcpy(safe, index, static_cast<size_t>(valid) * 2);
  if (b.bias_dtype == KEYGRAPH_FLOAT32)
    return load_at(static_cast<const float*>(b.bias) + row * b.bias_stride, safe);
  const uint16_t* values = static_cast<const uint16_t*>(b.bias) + row * b.bias_stride;
  uint16_t picked[W];
  KEYGRAPH_UNROLL
  for (int i = 0; i < W; ++i) picked[i] = values[safe[i]];
  return b.bias_dtype == KEYGRAPH_FLOAT16 ? load_half(picked) : load_bfloat(picked);
}

template <int NV>
static void sparse_scores(const SparseBatch& b, int64_t longest, F* row_largest) {
  const float* const k = b.k;
  const int64_t stride = NV ? NV * W : b.key_stride;
  constexpr int kLinesPerVisit = 8, kGroups = 4;  // of one row at a time
  Ahead ahead = *b.ahead;
  // Groups outside, rows inside: the rows' g-th groups lie near each other, so k stays in the first-level cache.
  for (int64_t g = 0; g < longest; g += kGroups * W) {
    const float* q = b.q;
    float* weights = b.weights + g;
    for (int64_t row = 0; row < b.rows; ++row, q += stride, weights += b.weight_stride) {
      for (int i = 0; i < kLinesPerVisit; ++i) fetch(ahead);
      int64_t left = b.count[row] - g;
      const uint16_t* index = b.list + b.begin[row] + g;
      F largest = row_largest[row];
      for (int i = 0; i < kGroups && left > 0; ++i, left -= W, index += W) {
        F score = score_group<NV>(q, k, stride, index);
        if (b.bias) score = fma(bias_group(b, row, index, least(left, W)), set1(kLog2E), score);
        if (left < W) score = choose(lanes((1u << left) - 1), score, set1(-__builtin_inff()));
        store(weights + i * W, score);
        largest = max_or_second(score, largest);
      }
      row_largest[row] = largest;
    }
  }
  *b.ahead = ahead;
}

// Scores become weights, relative to the row's largest score so far; what was summed before is rescaled to it.
static void sparse_weights(const SparseBatch& b, F* row_largest) {
  float origin[R], factor[R];
  F row_sum[R];
  for (int v = 0; v < R; v += W) {
    const F old = load(b.largest + v);
    F x[W];
    KEYGRAPH_UNROLL
    for (int i = 0; i < W; ++i) x[i] = row_largest[v + i];
    const F largest = max_or_second(old, reduce<Largest, W>(x));
    // All scores -inf: the weights become 0 and the result 0/0, as it should be.
    const F from = max_or_second(largest, set1(kLowest));
    store(b.largest + v, largest);
    store(origin + v, from);
    store(factor + v, exp2_negative(sub(old, from)));
  }
  for (int row = 0; row < R; ++row) row_sum[row] = set1(0.0f);
  for (int64_t row = 0; row < b.rows; ++row) {
    float* weights = b.weights + row * b.weight_stride;
    const F from = set1(origin[row]);
    F sum = set1(0.0f);
    for (const float* end = weights + b.count[row]; weights < end; weights += W) {
      const F w = exp2_negative(sub(load(weights), from));
      store(weights, w);
      sum = add(sum, w);
    }
    row_sum[row] = sum;
    if (!b.first && factor[row] != 1.0f) {
      float* acc = b.acc + row * b.value_stride;
      for (int64_t c = 0; c < b.value_stride; c += W) store(acc + c, mul(load(acc + c), set1(factor[row])));
    }
  }
  for (int v = 0; v < R; v += W) {
    F x[W];
    KEYGRAPH_UNROLL
    for (int i = 0; i < W; ++i) x[i] = row_sum[v + i];
    store(b.sum + v, fma(load(b.sum + v), load(factor + v), reduce<Sum, W>(x)));
  }
}

// acc += weights of `groups` groups of nodes times their rows of v. NV: how many vectors of each row of v.
template <int NV, int groups>
KEYGRAPH_INLINE void add_groups(const uint16_t* index, const float* weight, const float* v, int64_t stride, float* acc) {
  // Several chains, to hide the latency of the multiply-adds.
  constexpr int kChains = NV == 1 ? 8 : NV == 2 ? 4 : 2;
  F sum[kChains][NV];
  KEYGRAPH_UNROLL
  for (int i = 0; i < kChains; ++i) {
    KEYGRAPH_UNROLL
    for (int c = 0; c < NV; ++c) sum[i][c] = i == 0 ? load(acc + c * W) : set1(0.0f);
  }
  KEYGRAPH_UNROLL
  for (int i = 0; i < groups * W; ++i) {
    const float* node = v + index[i] * stride;
    const F w = set1(weight[i]);
    KEYGRAPH_UNROLL
    for (int c = 0; c < NV; ++c) sum[i % kChains][c] = fma(w, load(node + c * W), sum[i % kChains][c]);
  }
  KEYGRAPH_UNROLL
  for (int i = kChains / 2; i > 0; i /= 2) {
    KEYGRAPH_UNROLL
    for (int j = 0; j < i; ++j) {
      KEYGRAPH_UNROLL
      for (int c = 0; c < NV; ++c) sum[j][c] = add(sum[j][c], sum[j + i][c]);
    }
  }
  KEYGRAPH_UNROLL
  for (int c = 0; c < NV; ++c) store(acc + c * W, sum[0][c]);
}

// `whole`: the NV vectors from `column` on are all of v.
template <int NV, bool whole>
static void add_values(const SparseBatch& b, int64_t longest, int64_t column) {
  const int64_t stride = whole ? NV * W : b.value_stride;
  const float* const v = b.v + column;
  for (int64_t g = 0; g < longest; g += 2 * W) {
    float* acc = b.acc + column;
    const float* weight = b.weights + g;
    for (int64_t row = 0; row < b.rows; ++row, acc += stride, weight += b.weight_stride) {
      const int64_t left = b.count[row] - g;
      const uint16_t* index = b.list + b.begin[row] + g;
      if (left > W)
        add_groups<NV, 2>(index, weight, v, stride, acc);
      else if (left > 0)
        add_groups<NV, 1>(index, weight, v, stride, acc);
    }
  }
}

static void sparse_batch(const SparseBatch& b) {
  int64_t longest = 0;
  for (int64_t row = 0; row < b.rows; ++row) longest = most(longest, b.count[row]);
  if (longest == 0) return;

  F row_largest[R];
  for (int row = 0; row < R; ++row) row_largest[row] = set1(-__builtin_inff());
  switch (b.key_stride / W) {
    case 1: sparse_scores<1>(b, longest, row_largest); break;
    case 2: sparse_scores<2>(b, longest, row_largest); break;
    case 3: sparse_scores<3>(b, longest, row_largest); break;
    case 4: sparse_scores<4>(b, longest, row_largest); break;
    default: sparse_scores<0>(b, longest, row_largest);
  }
  sparse_weights(b, row_largest);
  switch (b.value_stride / W) {
    case 1: return add_values<1, true>(b, longest, 0);
    case 2: return add_values<2, true>(b, longest, 0);
    case 3: return add_values<3, true>(b, longest, 0);
    case 4: return add_values<4, true>(b, longest, 0);
    default: break;
  }
  int64_t column = 0;
  for (; b.value_stride - column >= 4 * W; column += 4 * W) add_values<4, false>(b, longest, column);
  for (; b.value_stride - column > 0; column += W) add_values<1, false>(b, longest, column);
}
