// SPDX-License-Identifier: Apache-2.0
//
// KeyGraphAttention for rows that select many nodes: all nodes, masked, as two blocked products with one row per lane.
// v must be finite: unselected nodes have the weight 0.

constexpr int64_t kDenseNodes = 8 * kTile > 64 ? 96 : 64;  // nodes per step: their scores stay in the first-level cache

struct DenseScratch {
  float *panel, *rows_buffer, *scores, *acc, *wide_k, *wide_v, *bias_rows;
};

static DenseScratch plan_dense(const AttentionProblem& p, Arena& arena) {
  DenseScratch s;
  const bool wide = p.dtype != KEYGRAPH_FLOAT32;
  s.panel = take<float>(arena, p.channels * R);
  s.rows_buffer = take<float>(arena, W * round_up(most(p.channels, p.value_channels), W));
  s.scores = take<float>(arena, kDenseNodes * R);
  s.acc = take<float>(arena, round_up(p.value_channels, W) * R);
  s.wide_k = take<float>(arena, wide ? kDenseNodes * p.channels : 0);
  s.wide_v = take<float>(arena, wide ? kDenseNodes * p.value_channels : 0);
  s.bias_rows = take<float>(arena, p.bias ? W * round_up(kDenseNodes, W) : 0);
  return s;
}

// masks[node] bit r = row r selects the node: the transpose of R rows of graph words.
static void transpose_graph(const int32_t* graph, int64_t rows, int64_t nodes, int64_t words, uint32_t* masks) {
  for (int64_t word = 0; word < words; ++word) {
    uint32_t x[32];
    for (int64_t row = 0; row < 32; ++row) x[row] = row < rows ? static_cast<uint32_t>(graph[row * words + word]) : 0u;
    uint32_t mask = 0x0000ffffu;
    for (int half = 16; half != 0; half /= 2, mask ^= mask << half) {
      for (int i = 0; i < 32; i = (i + half + 1) & ~half) {
        const uint32_t swap = ((x[i] >> half) ^ x[i + half]) & mask;
        x[i] ^= swap << half;
        x[i + half] ^= swap;
      }
    }
    for (int64_t i = 0; i < least(32, nodes - word * 32); ++i) masks[word * 32 + i] = x[i];
  }
}

// The bias's row of N values for a row of q, counted from its first.
KEYGRAPH_INLINE int64_t bias_row_of(const AttentionProblem& p, int64_t batch, int64_t head, int64_t row) {
  return (batch % p.bias_windows * p.heads + head) * p.rows + row;
}

static void add_bias(const AttentionProblem& p, int64_t batch, int64_t head, int64_t first_row, int64_t rows,
                     int64_t first_node, int64_t nodes, const DenseScratch& s) {
  const int64_t stride = round_up(kDenseNodes, W);
  KEYGRAPH_UNROLL
  for (int v = 0; v < 2; ++v) {
    const int64_t valid = most(0, least(W, rows - v * W));
    if (valid == 0) break;
    for (int64_t lane = 0; lane < W; ++lane) {
      const int64_t row = first_row + v * W + (lane < valid ? lane : 0);
      widen(p.dtype, p.bias, bias_row_of(p, batch, head, row) * p.nodes + first_node, nodes, kLog2E,
            s.bias_rows + lane * stride, round_up(nodes, W));
    }
    for (int64_t j = 0; j < nodes; j += W) {
      F x[W];
      KEYGRAPH_UNROLL
      for (int lane = 0; lane < W; ++lane) x[lane] = load(s.bias_rows + lane * stride + j);
      transpose(x);
      for (int i = 0; i < W && j + i < nodes; ++i) {
        float* score = s.scores + ((j + i) * 2 + v) * W;
        store(score, add(load(score), x[i]));
      }
    }
  }
}

// `selected[row]`: whether the row selects any node; if not, it is zeros.
static void dense_batch(const AttentionProblem& p, int64_t batch, int64_t head, int64_t first_row, int64_t rows,
                        const uint32_t* masks, const int64_t* selected, const DenseScratch& s) {
  const Rows q_rows = rows_of(p, batch, head, p.rows, p.channels),
             k_rows = rows_of(p, batch, head, p.nodes, p.channels),
             v_rows = rows_of(p, batch, head, p.nodes, p.value_channels),
             output_rows = rows_of(p, batch, head, p.rows, p.value_channels);
  pack_panel<2>(p.dtype, p.q, q_rows.from(first_row), rows, p.channels, p.scale * kLog2E, s.panel, s.rows_buffer);
  const F lowest = set1(-__builtin_inff());
  F largest[2] = {lowest, lowest}, sum[2] = {set1(0.0f), set1(0.0f)};
  for (int64_t j = 0; j < p.nodes; j += kDenseNodes) {
    const int64_t nodes = least(kDenseNodes, p.nodes - j);
    const FloatRows k = as_float(p.dtype, p.k, k_rows.from(j), nodes, p.channels, s.wide_k);
    const FloatRows v = as_float(p.dtype, p.v, v_rows.from(j), nodes, p.value_channels, s.wide_v);
    product<2>({s.panel, k.data, k.step, 1, p.channels, s.scores, false}, nodes);
    if (p.bias) add_bias(p, batch, head, first_row, rows, j, nodes, s);

    F step_largest[2] = {largest[0], largest[1]};
    for (int64_t i = 0; i < nodes; ++i) {
      KEYGRAPH_UNROLL
      for (int r = 0; r < 2; ++r) {
        float* score = s.scores + (i * 2 + r) * W;
        const F x = choose(lanes(masks[j + i] >> (r * W)), load(score), lowest);
        store(score, x);
        step_largest[r] = max_or_second(x, step_largest[r]);
      }
    }
    F origin[2];
    KEYGRAPH_UNROLL
    for (int r = 0; r < 2; ++r) {
      origin[r] = max_or_second(step_largest[r], set1(kLowest));
      const F factor = exp2_negative(sub(largest[r], origin[r]));
      sum[r] = mul(sum[r], factor);
      largest[r] = step_largest[r];
      if (j != 0) {
        for (int64_t c = 0; c < p.value_channels; ++c) {
          float* acc = s.acc + (c * 2 + r) * W;
          store(acc, mul(load(acc), factor));
        }
      }
    }
    for (int64_t i = 0; i < nodes; ++i) {
      KEYGRAPH_UNROLL
      for (int r = 0; r < 2; ++r) {
        float* score = s.scores + (i * 2 + r) * W;
        const F w = exp2_negative(sub(load(score), origin[r]));
        store(score, w);
        sum[r] = add(sum[r], w);
      }
    }
    product<2>({s.scores, v.data, 1, v.step, nodes, s.acc, j != 0}, p.value_channels);
  }

  const int64_t padded = round_up(p.value_channels, W);
  KEYGRAPH_UNROLL
  for (int r = 0; r < 2; ++r) {
    const F share = div(set1(1.0f), sum[r]);
    for (int64_t c = 0; c < p.value_channels; c += W) {
      F x[W];
      KEYGRAPH_UNROLL
      for (int i = 0; i < W; ++i)
        x[i] = c + i < p.value_channels ? mul(load(s.acc + ((c + i) * 2 + r) * W), share) : set1(0.0f);
      transpose(x);
      KEYGRAPH_UNROLL
      for (int lane = 0; lane < W; ++lane) store(s.rows_buffer + lane * padded + c, x[lane]);
    }
    for (int64_t lane = 0; lane < least(W, rows - r * W); ++lane) {
      float* row = s.rows_buffer + lane * padded;
      if (!selected[r * W + lane]) memset(row, 0, static_cast<size_t>(p.value_channels) * 4);
      narrow(p.dtype, row, p.value_channels, p.output, output_rows.at(first_row + r * W + lane));
    }
  }
}
