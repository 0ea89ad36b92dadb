// SPDX-License-Identifier: Apache-2.0
//
// KeyGraph. A block of rows at a time, one row per lane: similarities to all nodes by the blocked product, then the
// k-th largest of each row by a search on the similarities' order, then the bits. Only one block is stored at a time.

constexpr int64_t kBlockBytes = 1 << 20;  // similarities of one block; half of a thread's scratch memory
constexpr int64_t kChunkNodes = 8 * kTile;
constexpr int64_t kSymmetricWindows = 16;  // enough for an even split among a few threads

struct GraphPlan {
  bool symmetric;   // store all similarities of a window, and multiply each pair of blocks once
  int64_t vectors;  // rows of a block, in vectors
  int64_t blocks;   // blocks per window
  int64_t blocks_per_task, tasks_per_window;
  float *panel, *rows_buffer, *chunk;
  int32_t* keys;  // [block, if symmetric][node][row of the block]
  int64_t block_keys;
};

static GraphPlan plan_graph(const GraphProblem& p, Arena& arena) {
  GraphPlan plan;
  // Then a window is one task, so there must be windows for all threads.
  plan.symmetric = p.query == p.key && p.rows == p.nodes && p.nodes % R == 0 && p.nodes * p.nodes * 4 <= kBlockBytes &&
                   p.windows >= kSymmetricWindows;
  const bool narrow_block = p.nodes * R * 4 > kBlockBytes || p.rows <= W;
  plan.vectors = narrow_block ? 1 : 2;
  plan.blocks = split_up(p.rows, plan.vectors * W);
  // A task is long enough to hide the cost of dispatching it to a thread: about 4 million multiply-adds.
  const int64_t block_work = plan.vectors * W * p.nodes * (p.channels + 16);
  plan.blocks_per_task =
      plan.symmetric ? plan.blocks : most(1, least(plan.blocks, (int64_t{1} << 22) / most(1, block_work)));
  plan.tasks_per_window = split_up(plan.blocks, plan.blocks_per_task);
  plan.panel = take<float>(arena, p.channels * R);
  plan.rows_buffer = take<float>(arena, W * round_up(p.channels, W));
  plan.chunk = take<float>(arena, p.dtype == KEYGRAPH_FLOAT32 ? 0 : kChunkNodes * p.channels);
  plan.block_keys = p.nodes * plan.vectors * W;
  plan.keys = take<int32_t>(arena, plan.block_keys * (plan.symmetric ? plan.blocks : 1));
  return plan;
}

static Split graph_split(const GraphProblem& p) {
  Arena arena = {nullptr, 0};
  const GraphPlan plan = plan_graph(p, arena);
  return {static_cast<size_t>(p.windows * plan.tasks_per_window), arena.used};
}

// Maps floats to integers of the same order: -0 equals +0, NaN is below everything.
KEYGRAPH_INLINE I key_of(F similarity) {
  const I b = bits(add(similarity, set1(0.0f)));
  const I key = ixor(b, shr<1>(sign(b)));
  return ichoose(is_nan(similarity), iset1(INT32_MIN), key);
}
KEYGRAPH_INLINE F float_of(I key) { return from_bits(ixor(key, shr<1>(sign(key)))); }

template <int RV>
KEYGRAPH_INLINE void count_at_least(const int32_t* keys, int64_t nodes, const I (&pivot)[RV], I (&count)[RV]) {
  KEYGRAPH_UNROLL
  for (int v = 0; v < RV; ++v) count[v] = iset1(0);
  for (int64_t j = 0; j < nodes; ++j) {
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) count[v] = count_if(count[v], ige(iload(keys + (j * RV + v) * W), pivot[v]));
  }
}

// Writes the rows' bits. Each lane searches its own row for a value with exactly k keys at or above it; where ties
// prevent that, the search ends at the k-th largest key itself, and the lowest nodes that have it fill up the row.
template <int RV>
static void select_nodes(const int32_t* keys, int64_t nodes, int64_t k, int64_t rows, int64_t words, int32_t* graph) {
  const I wanted = iset1(static_cast<int32_t>(k));
  // at least `wanted` keys are >= low, fewer than `wanted` are >= high
  I low[RV], high[RV], low_count[RV], high_count[RV];
  KEYGRAPH_UNROLL
  for (int v = 0; v < RV; ++v) {
    low[v] = iset1(INT32_MAX);
    high[v] = iset1(INT32_MIN);
  }
  for (int64_t j = 0; j < nodes; ++j) {
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) {
      const I key = iload(keys + (j * RV + v) * W);
      low[v] = imin(low[v], key);
      high[v] = imax(high[v], key);
    }
  }
  KEYGRAPH_UNROLL
  for (int v = 0; v < RV; ++v) {
    high[v] = iadd(high[v], iset1(1));
    low_count[v] = iset1(static_cast<int32_t>(nodes));
    high_count[v] = iset1(0);
  }
  for (int pass = 0;; ++pass) {
    M done[RV];
    bool finished = true;
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) {
      done[v] = either(ieq(low_count[v], wanted), ieq(isub(high[v], low[v]), iset1(1)));
      finished = finished && all(done[v]);
    }
    if (finished) break;
    I pivot[RV], count[RV];
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) {
      if (pass % 3 == 2) {
        // Bisecting the integers bounds the number of passes for any values.
        pivot[v] = iadd(low[v], shr<1>(isub(high[v], low[v])));
      } else {
        const F from = float_of(low[v]), to = float_of(high[v]);
        const F share = div(to_float(isub(low_count[v], wanted)), to_float(isub(low_count[v], high_count[v])));
        pivot[v] = key_of(fma(sub(to, from), share, from));
      }
      pivot[v] = imax(iadd(low[v], iset1(1)), imin(isub(high[v], iset1(1)), pivot[v]));
    }
    count_at_least<RV>(keys, nodes, pivot, count);
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) {
      const M enough = ige(count[v], wanted);
      const I next_low = ichoose(enough, pivot[v], low[v]), next_low_count = ichoose(enough, count[v], low_count[v]);
      const I next_high = ichoose(enough, high[v], pivot[v]),
              next_high_count = ichoose(enough, high_count[v], count[v]);
      low[v] = ichoose(done[v], low[v], next_low);
      low_count[v] = ichoose(done[v], low_count[v], next_low_count);
      high[v] = ichoose(done[v], high[v], next_high);
      high_count[v] = ichoose(done[v], high_count[v], next_high_count);
    }
  }

  bool ties = false;
  I remaining[RV];  // how many nodes with exactly the k-th key are selected
  I above[RV];      // keys from here on are selected without counting
  KEYGRAPH_UNROLL
  for (int v = 0; v < RV; ++v) {
    const M exact = ieq(low_count[v], wanted);
    ties = ties || !all(exact);
    above[v] = ichoose(exact, low[v], iadd(low[v], iset1(1)));
    remaining[v] = ichoose(exact, iset1(0), isub(wanted, high_count[v]));
  }
  for (int64_t word = 0; word < words; ++word) {
    const int64_t first = word * 32, count = least(32, nodes - first);
    I out[RV];
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) out[v] = iset1(0);
    if (!ties) {
      for (int64_t j = 0; j < count; ++j) {
        const I bit = iset1(static_cast<int32_t>(uint32_t{1} << j));
        KEYGRAPH_UNROLL
        for (int v = 0; v < RV; ++v)
          out[v] = or_if(out[v], ige(iload(keys + ((first + j) * RV + v) * W), above[v]), bit);
      }
    } else {
      for (int64_t j = 0; j < count; ++j) {
        const I bit = iset1(static_cast<int32_t>(uint32_t{1} << j));
        KEYGRAPH_UNROLL
        for (int v = 0; v < RV; ++v) {
          const I key = iload(keys + ((first + j) * RV + v) * W);
          const M tied = both(ieq(key, low[v]), igt(remaining[v], iset1(0)));
          remaining[v] = ichoose(tied, isub(remaining[v], iset1(1)), remaining[v]);
          out[v] = or_if(out[v], either(ige(key, above[v]), tied), bit);
        }
      }
    }
    int32_t lane_words[RV * W];
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) istore(lane_words + v * W, out[v]);
    for (int64_t row = 0; row < rows; ++row) graph[row * words + word] = lane_words[row];
  }
}

// The similarities' keys of one block of rows to the nodes from `first_node` on.
template <int RV>
static void compare_nodes(const GraphProblem& p, const GraphPlan& plan, int64_t window, int64_t first, int64_t rows,
                          int64_t first_node, int32_t* keys) {
  const Rows query = {(window * p.rows + first) * p.channels, p.channels};
  const Rows key = {window * p.nodes * p.channels, p.channels};
  pack_panel<RV>(p.dtype, p.query, query, rows, p.channels, 1.0f, plan.panel, plan.rows_buffer);
  for (int64_t j = first_node; j < p.nodes; j += kChunkNodes) {
    const int64_t count = least(kChunkNodes, p.nodes - j);
    float* out = reinterpret_cast<float*>(keys) + j * RV * W;
    const FloatRows nodes = as_float(p.dtype, p.key, key.from(j), count, p.channels, plan.chunk);
    product<RV>({plan.panel, nodes.data, nodes.step, 1, p.channels, out, false}, count);
    for (int64_t i = 0; i < count * RV * W; i += W) istore(keys + j * RV * W + i, key_of(load(out + i)));
  }
}

// The similarities of a block's rows to a later block's nodes are those of that block's rows to this block's nodes,
// transposed: the product sums in the same order either way, so the bits agree.
template <int RV>
static void mirror_block(const GraphPlan& plan, int64_t block) {
  const float* from = reinterpret_cast<const float*>(plan.keys + block * plan.block_keys);
  for (int64_t vector = (block + 1) * RV; vector < plan.blocks * RV; ++vector) {
    float* to = reinterpret_cast<float*>(plan.keys + vector / RV * plan.block_keys) + vector % RV * W;
    for (int64_t v = 0; v < RV; ++v) {
      F x[W];
      KEYGRAPH_UNROLL
      for (int i = 0; i < W; ++i) x[i] = load(from + ((vector * W + i) * RV + v) * W);
      transpose(x);
      KEYGRAPH_UNROLL
      for (int i = 0; i < W; ++i) store(to + ((block * RV + v) * W + i) * RV * W, x[i]);
    }
  }
}

template <int RV>
static void graph_block(const GraphProblem& p, const GraphPlan& plan, int64_t window, int64_t block) {
  const int64_t first = block * RV * W, rows = least(RV * W, p.rows - first);
  int32_t* keys = plan.keys + (plan.symmetric ? block * plan.block_keys : 0);
  compare_nodes<RV>(p, plan, window, first, rows, plan.symmetric ? first : 0, keys);
  if (plan.symmetric) mirror_block<RV>(plan, block);
  select_nodes<RV>(keys, p.nodes, p.k, rows, p.words, p.graph + (window * p.rows + first) * p.words);
}

static void select_all(int64_t nodes, int64_t words, int64_t row, int64_t rows, int32_t* graph) {
  for (int64_t i = row * words; i < (row + rows) * words; ++i) {
    const int64_t left = nodes - i % words * 32;
    graph[i] = left >= 32 ? -1 : static_cast<int32_t>((uint32_t{1} << left) - 1);
  }
}

static void graph_task(const GraphProblem& p, size_t task, char* scratch) {
  Arena arena = {scratch, 0};
  const GraphPlan plan = plan_graph(p, arena);
  const int64_t window = static_cast<int64_t>(task) / plan.tasks_per_window;
  const int64_t block = static_cast<int64_t>(task) % plan.tasks_per_window * plan.blocks_per_task;
  const int64_t size = plan.vectors * W;
  for (int64_t b = block; b < least(plan.blocks, block + plan.blocks_per_task); ++b) {
    if (p.k >= p.nodes)
      select_all(p.nodes, p.words, window * p.rows + b * size, least(size, p.rows - b * size), p.graph);
    else if (plan.vectors == 1)
      graph_block<1>(p, plan, window, b);
    else
      graph_block<2>(p, plan, window, b);
  }
}
