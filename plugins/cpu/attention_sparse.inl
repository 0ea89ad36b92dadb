// SPDX-License-Identifier: Apache-2.0
//
// KeyGraphAttention for rows that select few nodes: gathers only the selected rows of k and v.
//
// Summing the lanes of a product costs as much as the product itself. So a vector holds P channels of each of W / P
// heads, lane part * heads + head, and only log2(P) steps remain; heads that share the graph also share its lists. P
// nodes at a time make one vector of scores, lane node * heads + head. Lists of selected nodes are padded with the
// index of a row of zeros behind the packed nodes; the padding's scores are -inf, so that its weights are 0.

constexpr int64_t kRangeBytes = 1 << 16;  // packed k, or v, of the nodes of one range: more would thrash the caches
constexpr int kVectors = 8;               // vectors per row up to which a kernel keeps a row in registers
constexpr int kFewParts = W > 8 ? W / 8 : 1;

// Number of packed nodes in one range.
KEYGRAPH_INLINE int64_t range_of(int64_t step) { return most(32, kRangeBytes / 4 / step / 32 * 32); }

// Layout of heads in vectors.
struct Layout {
  int64_t parts;                                // P
  int64_t heads;                                // W / P
  int64_t vectors;                              // per row of k, and per row of v
  int64_t step() const { return vectors * W; }  // in floats
};

// Cost in vector operations for W nodes and all heads. For P nodes: two products, 3 for each of P - 1 summation steps,
// 11 for the softmax.
KEYGRAPH_INLINE int64_t visit_cost(int64_t heads, const Layout& layout) {
  return split_up(heads, layout.heads) * (W * (2 * layout.vectors + 3) + (11 - 3) * layout.heads);
}

KEYGRAPH_INLINE Layout layout_of(int64_t parts, int64_t channels) {
  return {parts, W / parts, most(1, split_up(channels, parts))};
}

// P = W, W/2 or kFewParts, whichever is cheapest.
static Layout choose_layout(const AttentionProblem& p) {
  const int64_t channels = most(p.channels, p.value_channels);
  Layout best = layout_of(W, channels);
  if (p.groups != 1) return best;  // every head has its own graph
  constexpr int kOthers[] = {W / 2, kFewParts};
  for (const int parts : kOthers) {
    const Layout layout = layout_of(parts, channels);
    if (layout.vectors <= kVectors && visit_cost(p.heads, layout) < visit_cost(p.heads, best)) best = layout;
  }
  return best;
}

// to[row][vector][part * heads + head] = factor * from[row][head][vector * parts + part]; zeros past the last
// head or channel.
template <int P>
static void pack_heads(keygraph_dtype dtype, const void* from, Rows rows, int64_t head_step, int64_t heads,
                       int64_t count, int64_t channels, float factor, int64_t vectors, float* to, int64_t to_step,
                       float* buffer) {
  constexpr int H = W / P;
  const int64_t padded = round_up(channels, W);
  const F f = set1(factor);
  for (int64_t row = 0; row < count; ++row, to += to_step) {
    const float* source = static_cast<const float*>(from) + rows.at(row);
    int64_t source_step = head_step;
    if (dtype != KEYGRAPH_FLOAT32) {
      for (int64_t head = 0; head < heads; ++head)
        widen(dtype, from, rows.at(row) + head * head_step, channels, 1.0f, buffer + head * padded, padded);
      source = buffer;
      source_step = padded;
    }
    for (int64_t vector = 0; vector < vectors; vector += H) {
      const int64_t c = vector * P, left = channels - c;
      F x[H];
      KEYGRAPH_UNROLL
      for (int head = 0; head < H; ++head) {
        const float* at = source + head * source_step + c;
        const bool none = head >= heads || left <= 0;
        x[head] = none ? set1(0.0f) : left >= W ? load(at) : load_some(at, static_cast<int>(left));
      }
      interleave<H, H>(x);
      KEYGRAPH_UNROLL
      for (int i = 0; i < H; ++i)
        if (vector + i < vectors) store(to + (vector + i) * W, mul(f, x[i]));
    }
  }
}

// One range of nodes for one batch of at most R rows, and the heads of one layout.
struct SparseBatch {
  int64_t rows;
  const uint16_t** next;  // [rows] position in each row's list; advances
  const uint16_t** end;   // [rows] end of the list, before its padding to a multiple of W entries
  int64_t limit;          // nodes from here on belong to later ranges
  int64_t vectors;
  const float* q;  // [rows][vectors], scaled by log2(e)
  const float* k;  // [nodes + 1][vectors]
  const float* v;  // [nodes + 1][vectors]
  float* weights;  // room for one row's groups in one range
  int64_t weight_step;
  float* state;      // [rows][vectors + 2]: running weighted sum of v, sum of weights, origin of the weights
  const void* bias;  // of the batch's first row, the first head and the block's first node, or null
  keygraph_dtype bias_dtype;
  int64_t bias_row, bias_head, bias_heads;
};

static __attribute__((noinline)) F bias_of(const SparseBatch& b, int64_t row, const uint16_t* index, int64_t nodes,
                                           int heads) {
  float bias[W] = {};
  for (int64_t i = 0; i < nodes; ++i)
    for (int64_t head = 0; head < b.bias_heads; ++head) {
      const int64_t at = head * b.bias_head + row * b.bias_row + index[i];
      widen(b.bias_dtype, b.bias, at, 1, kLog2E, bias + i * heads + head, 1);
    }
  return load(bias);
}

// Weights are 2^(score - origin). The origin need not be the largest score so far: as long as none exceeds it by more
// than this, nothing overflows and no significant weight is lost.
constexpr float kSlack = 16.0f;

// V is the number of vectors per row; 0 means that it is known at run time only.
template <int P, int V>
static void sparse_weights(const SparseBatch& b) {
  constexpr int H = W / P;
  constexpr int kRegisters = V ? V : 1;
  const size_t step = static_cast<size_t>(V ? V : b.vectors) * W;
  const float* q = b.q;
  float* state = b.state;
  float* weights = b.weights;
  for (int64_t row = 0; row < b.rows; ++row, q += step, state += step + 2 * W, weights += b.weight_step) {
    const uint16_t *next = b.next[row], *const end = b.end[row];
    F row_q[kRegisters], largest = set1(kLowest);
    KEYGRAPH_UNROLL
    for (int c = 0; c < V; ++c) row_q[c] = load(q + c * W);
    float* at = weights;
    for (; next < end && next[P - 1] < b.limit; next += P, at += W) {
      F x[P];
      KEYGRAPH_UNROLL
      for (int i = 0; i < P; ++i) {
        const float* k = b.k + next[i] * step;
        x[i] = V ? mul(row_q[0], load(k)) : set1(0.0f);
        KEYGRAPH_UNROLL
        for (int c = 1; c < V; ++c) x[i] = fma(row_q[c], load(k + c * W), x[i]);
        if constexpr (V == 0)
          for (size_t c = 0; c < step; c += W) x[i] = fma(load(q + c), load(k + c), x[i]);
      }
      F score = reduce<Sum, P, W / 2>(x);
      const int64_t left = end - next;
      if (b.bias) score = add(score, bias_of(b, row, next, least(left, P), H));
      if (left < P) score = choose(lanes((1u << (left * H)) - 1), score, set1(-__builtin_inff()));
      store(at, score);
      largest = max_or_second(score, largest);
    }
    float* const weights_end = at;
    F origin = load(state + step + W), sum = load(state + step);
    if (any(less(add(origin, set1(kSlack)), largest))) {
      const F larger = max_or_second(combine_parts<Largest, H, W / 2>(largest), origin);
      const F factor = exp2_negative(sub(origin, larger));
      origin = larger;
      store(state + step + W, origin);
      sum = mul(sum, factor);
      for (size_t c = 0; c < step; c += W) store(state + c, mul(load(state + c), factor));
    }
    for (at = weights; at < weights_end; at += W) {
      const F weight = exp2_negative(sub(load(at), origin));
      store(at, weight);
      sum = add(sum, weight);
    }
    store(state + step, sum);
  }
}

template <int P, int V>
static void sparse_values(const SparseBatch& b) {
  constexpr int H = W / P;
  constexpr int kChains = V > 5 || P == 1 ? 1 : V > 2 || P == 2 ? 2 : 4;  // of multiply-adds, to hide their latency
  constexpr int kRegisters = V ? V : 1;
  const size_t step = static_cast<size_t>(V ? V : b.vectors) * W;
  const float* weights = b.weights;
  float* state = b.state;
  for (int64_t row = 0; row < b.rows; ++row, state += step + 2 * W, weights += b.weight_step) {
    const uint16_t *next = b.next[row], *const end = b.end[row];
    const float* weight = weights;
    F acc[kChains][kRegisters];
    KEYGRAPH_UNROLL
    for (int i = 0; i < V; ++i) {
      acc[0][i] = load(state + i * W);
      KEYGRAPH_UNROLL
      for (int j = 1; j < kChains; ++j) acc[j][i] = set1(0.0f);
    }
    for (; next < end && next[P - 1] < b.limit; next += P, weight += W) {
      KEYGRAPH_UNROLL
      for (int i = 0; i < P; ++i) {
        const F w = repeat<H>(weight + i * H);
        const float* v = b.v + next[i] * step;
        KEYGRAPH_UNROLL
        for (int c = 0; c < V; ++c) acc[i % kChains][c] = fma(w, load(v + c * W), acc[i % kChains][c]);
        if constexpr (V == 0)
          for (size_t c = 0; c < step; c += W) store(state + c, fma(w, load(v + c), load(state + c)));
      }
    }
    b.next[row] = next;
    KEYGRAPH_UNROLL
    for (int i = 0; i < V; ++i) {
      KEYGRAPH_UNROLL
      for (int j = 1; j < kChains; ++j) acc[0][i] = add(acc[0][i], acc[j][i]);
      store(state + i * W, acc[0][i]);
    }
  }
}

template <int P, int V>
static void sparse_batch(const SparseBatch& b) {
  sparse_weights<P, V>(b);
  sparse_values<P, V>(b);
}

template <int P>
static auto sparse_kernel(int64_t vectors) {
  static void (*const kernels[kVectors + 1])(const SparseBatch&) = {
      sparse_batch<P, 0>, sparse_batch<P, 1>, sparse_batch<P, 2>, sparse_batch<P, 3>, sparse_batch<P, 4>,
      sparse_batch<P, 5>, sparse_batch<P, 6>, sparse_batch<P, 7>, sparse_batch<P, 8>};
  return kernels[vectors <= kVectors ? vectors : 0];
}

// Writes the finished rows of `heads` heads from the state of one row. `row` is a buffer of W floats.
template <int P>
static void unpack_heads(const float* state, int64_t vectors, bool selected, keygraph_dtype dtype, void* to,
                         int64_t offset, int64_t head_step, int64_t heads, int64_t channels) {
  constexpr int H = W / P;
  const F sum = combine_parts<Sum, H, W / 2>(load(state + vectors * W));
  const F share = selected ? div(set1(1.0f), sum) : set1(0.0f);
  for (int64_t vector = 0; vector < vectors; vector += H) {
    const int64_t c = vector * P, left = channels - c;
    if (left <= 0) break;
    F x[H];
    KEYGRAPH_UNROLL
    for (int i = 0; i < H; ++i) x[i] = vector + i < vectors ? mul(load(state + (vector + i) * W), share) : set1(0.0f);
    interleave<H, W>(x);
    KEYGRAPH_UNROLL
    for (int head = 0; head < H; ++head) {
      if (head >= heads) break;
      const int64_t at = offset + head * head_step + c;
      if (dtype == KEYGRAPH_FLOAT32) {
        float* target = static_cast<float*>(to) + at;
        if (left >= W)
          store(target, x[head]);
        else
          store_some(target, x[head], static_cast<int>(left));
      } else {
        float row[W];
        store(row, x[head]);
        narrow(dtype, row, least(left, W), to, at);
      }
    }
  }
}
