// SPDX-License-Identifier: Apache-2.0
//
// KeyGraphAttention where few nodes are selected: gathers the selected rows of k and v, and nothing else.
// Rows of k and v are packed, padded to whole vectors. Lists of selected nodes are padded to whole groups of W with the
// index of a row of zeros behind the packed nodes; the padding's scores are -inf, so that its weights are 0.

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
  float* largest;         // [rows] running maximum, in units of log2
  float* sum;             // [rows] running sum of the weights
  float* acc;             // [rows][value_stride] running weighted sum of v
};

// Sums of the W vectors' lanes, in order.
#ifndef KEYGRAPH_HAS_SUMS
KEYGRAPH_INLINE F sums(F (&x)[W]) {
  for (int count = W; count > 1; count /= 2)
    for (int i = 0; i < count / 2; ++i)
      x[i] = add(zip_low(x[i], x[i + count / 2]), zip_high(x[i], x[i + count / 2]));
  return x[0];
}
#endif

// Products of one q with W selected rows of k. NV: vectors per row, 0 where that is known at run time only.
template <int NV>
KEYGRAPH_INLINE F score_group(const float* q, const float* k, int64_t stride, const uint16_t* index) {
  F x[W];
  for (int i = 0; i < W; ++i) {
    const float* node = k + index[i] * (NV ? NV * W : stride);
    x[i] = mul(load(q), load(node));
    if constexpr (NV != 0) {
      for (int v = 1; v < NV; ++v) x[i] = fma(load(q + v * W), load(node + v * W), x[i]);
    } else {
      for (int64_t c = W; c < stride; c += W) x[i] = fma(load(q + c), load(node + c), x[i]);
    }
  }
  return sums(x);
}

KEYGRAPH_INLINE F bias_group(const SparseBatch& b, int64_t row, const uint16_t* index, int64_t valid) {
  // The padding's index lies outside the bias.
  uint16_t safe[W] = {};
  memcpy(safe, index, static_cast<size_t>(valid) * 2);
  if (b.bias_dtype == KEYGRAPH_FLOAT32)
    return load_at(static_cast<const float*>(b.bias) + row * b.bias_stride, safe);
  const uint16_t* values = static_cast<const uint16_t*>(b.bias) + row * b.bias_stride;
  uint16_t picked[W];
  for (int i = 0; i < W; ++i) picked[i] = values[safe[i]];
  return b.bias_dtype == KEYGRAPH_FLOAT16 ? load_half(picked) : load_bfloat(picked);
}

template <int NV>
static void sparse_scores(const SparseBatch& b, int64_t longest, F* row_largest) {
  for (int64_t row = 0; row < b.rows; ++row) row_largest[row] = set1(-__builtin_inff());
  // Groups outside, rows inside: the rows' g-th groups lie near each other, so k stays in the first-level cache.
  for (int64_t g = 0; g < longest; g += W) {
    for (int64_t row = 0; row < b.rows; ++row) {
      const int64_t left = b.count[row] - g;
      if (left <= 0) continue;
      const uint16_t* index = b.list + b.begin[row] + g;
      F score = score_group<NV>(b.q + row * b.key_stride, b.k, b.key_stride, index);
      if (b.bias) score = fma(bias_group(b, row, index, least(left, W)), set1(kLog2E), score);
      if (left < W) score = choose(lanes((1u << left) - 1), score, set1(-__builtin_inff()));
      store(b.weights + row * b.weight_stride + g, score);
      row_largest[row] = max_or_second(score, row_largest[row]);
    }
  }
}

template <int NV>
KEYGRAPH_INLINE void add_values(const SparseBatch& b, int64_t longest, int64_t column) {
  for (int64_t g = 0; g < longest; g += W) {
    for (int64_t row = 0; row < b.rows; ++row) {
      if (b.count[row] <= g) continue;
      const uint16_t* index = b.list + b.begin[row] + g;
      const float* weight = b.weights + row * b.weight_stride + g;
      // Four chains, to hide the latency of the multiply-adds.
      F sum[4][NV];
      for (int i = 0; i < W; ++i) {
        const float* node = b.v + index[i] * b.value_stride + column;
        const F w = set1(weight[i]);
        for (int v = 0; v < NV; ++v)
          sum[i % 4][v] = i < 4 ? mul(w, load(node + v * W)) : fma(w, load(node + v * W), sum[i % 4][v]);
      }
      float* acc = b.acc + row * b.value_stride + column;
      for (int v = 0; v < NV; ++v)
        store(acc + v * W, add(load(acc + v * W), add(add(sum[0][v], sum[1][v]), add(sum[2][v], sum[3][v]))));
    }
  }
}

static void sparse_batch(const SparseBatch& b) {
  int64_t longest = 0;
  for (int64_t row = 0; row < b.rows; ++row) longest = most(longest, b.count[row]);
  if (longest == 0) return;

  F row_largest[R];
  switch (b.key_stride / W) {
    case 1: sparse_scores<1>(b, longest, row_largest); break;
    case 2: sparse_scores<2>(b, longest, row_largest); break;
    case 3: sparse_scores<3>(b, longest, row_largest); break;
    case 4: sparse_scores<4>(b, longest, row_largest); break;
    default: sparse_scores<0>(b, longest, row_largest);
  }

  for (int64_t row = 0; row < b.rows; ++row) {
    if (b.count[row] == 0) continue;
    float* weights = b.weights + row * b.weight_stride;
    float largest = max_of_lanes(row_largest[row]);
    if (b.largest[row] > largest) largest = b.largest[row];
    // All -inf: the weights become 0 and the result 0/0, as it should be.
    const F origin = set1(largest > kLowest ? largest : kLowest);
    F sum = set1(0.0f);
    for (int64_t g = 0; g < b.count[row]; g += W) {
      const F w = exp2_negative(sub(load(weights + g), origin));
      store(weights + g, w);
      sum = add(sum, w);
    }
    if (b.largest[row] != largest) {
      float old[W];
      store(old, exp2_negative(sub(set1(b.largest[row]), origin)));
      if (b.sum[row] != 0) {
        for (int64_t c = 0; c < b.value_stride; c += W)
          store(b.acc + row * b.value_stride + c, mul(set1(old[0]), load(b.acc + row * b.value_stride + c)));
      }
      b.sum[row] *= old[0];
      b.largest[row] = largest;
    }
    b.sum[row] += sum_of_lanes(sum);
  }

  int64_t column = 0;
  for (; b.value_stride - column >= 4 * W; column += 4 * W) add_values<4>(b, longest, column);
  switch ((b.value_stride - column) / W) {
    case 1: add_values<1>(b, longest, column); break;
    case 2: add_values<2>(b, longest, column); break;
    case 3: add_values<3>(b, longest, column); break;
    default: break;
  }
}
