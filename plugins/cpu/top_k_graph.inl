// SPDX-License-Identifier: Apache-2.0
//
// TopKGraph. A block of rows at a time, one row per lane, as in KeyGraph: the scores are transposed into the lanes, then
// KeyGraph's search finds the k-th largest of each row. Rows of all windows are alike, so blocks may cross windows.

struct TopKPlan {
  int64_t vectors;  // rows of a block, in vectors
  int64_t blocks, blocks_per_task;
  float* rows_buffer;  // W rows of kScoreNodes
  int32_t* keys;       // [node][row of the block]
};

constexpr int64_t kScoreNodes = 8 * W;

static TopKPlan plan_top_k(const TopKProblem& p, Arena& arena) {
  TopKPlan plan;
  plan.vectors = p.nodes * R * 4 > kBlockBytes || p.rows <= W ? 1 : 2;
  plan.blocks = split_up(p.rows, plan.vectors * W);
  // A task is long enough to hide the cost of dispatching it to a thread.
  const int64_t block_work = plan.vectors * W * p.nodes * 16;
  plan.blocks_per_task = most(1, least(plan.blocks, (int64_t{1} << 22) / most(1, block_work)));
  plan.rows_buffer = take<float>(arena, W * kScoreNodes);
  plan.keys = take<int32_t>(arena, p.nodes * plan.vectors * W);
  return plan;
}

static Split top_k_split(const TopKProblem& p) {
  Arena arena = {nullptr, 0};
  const TopKPlan plan = plan_top_k(p, arena);
  return {static_cast<size_t>(split_up(plan.blocks, plan.blocks_per_task)), arena.used};
}

// As key_of, but by the bits: numbers that the processor may take for 0 keep their order.
KEYGRAPH_INLINE I exact_key_of(F score) {
  const I b = bits(score);
  const I key = ichoose(ieq(b, iset1(INT32_MIN)), iset1(0), ixor(b, shr<1>(sign(b))));
  return ichoose(is_nan(score), iset1(INT32_MIN), key);
}

// The keys of a block's rows; lanes past the last row repeat it.
template <int RV>
static void rank_scores(const TopKProblem& p, const TopKPlan& plan, int64_t first, int64_t rows) {
  KEYGRAPH_UNROLL
  for (int v = 0; v < RV; ++v) {
    for (int64_t j = 0; j < p.nodes; j += kScoreNodes) {
      const int64_t count = least(kScoreNodes, p.nodes - j);
      for (int64_t lane = 0; lane < W; ++lane) {
        const int64_t row = first + least(v * W + lane, rows - 1);
        widen_exactly(p.dtype, p.scores, row * p.nodes + j, count, plan.rows_buffer + lane * kScoreNodes);
      }
      for (int64_t i = 0; i < count; i += W) {
        F x[W];
        KEYGRAPH_UNROLL
        for (int lane = 0; lane < W; ++lane) x[lane] = load(plan.rows_buffer + lane * kScoreNodes + i);
        transpose(x);
        int32_t* const to = plan.keys + ((j + i) * RV + v) * W;
        const int64_t whole = least(W, count - i);
        KEYGRAPH_UNROLL
        for (int node = 0; node < W; ++node)
          if (node < whole) istore(to + node * RV * W, exact_key_of(x[node]));
      }
    }
  }
}

template <int RV>
static void top_k_block(const TopKProblem& p, const TopKPlan& plan, int64_t block) {
  const int64_t first = block * RV * W, rows = least(RV * W, p.rows - first);
  rank_scores<RV>(p, plan, first, rows);
  select_nodes<RV>(plan.keys, p.nodes, p.k, rows, p.words, p.graph + first * p.words);
}

static void top_k_task(const TopKProblem& p, size_t task, char* scratch) {
  Arena arena = {scratch, 0};
  const TopKPlan plan = plan_top_k(p, arena);
  const int64_t begin = static_cast<int64_t>(task) * plan.blocks_per_task, size = plan.vectors * W;
  for (int64_t block = begin; block < least(plan.blocks, begin + plan.blocks_per_task); ++block) {
    if (p.k >= p.nodes)
      select_all(p.nodes, p.words, block * size, least(size, p.rows - block * size), p.graph);
    else if (plan.vectors == 1)
      top_k_block<1>(p, plan, block);
    else
      top_k_block<2>(p, plan, block);
  }
}
