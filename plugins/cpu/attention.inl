// SPDX-License-Identifier: Apache-2.0
//
// KeyGraphAttention: splits the work, reads the graph once for all heads that share it, and computes each batch of R
// rows by the sparse or the dense kernel, whichever costs less.

constexpr int64_t kPackBytes = 1 << 19;    // packed k and v of one block of nodes
constexpr int64_t kListEntries = 1 << 17;  // selected nodes of one chunk of rows
constexpr int64_t kWantedTasks = 12;       // enough for an even split among a few threads

struct AttentionPlan {
  Layout layout;
  int64_t node_block, node_blocks;
  int64_t task_rows, row_tasks;    // rows are split first,
  int64_t task_heads, head_tasks;  // then heads; the heads of a task share one graph
  int64_t list_entries;
  float *k, *v, *q, *state, *weights, *rows_buffer;
  int64_t weight_step;
  uint16_t* list;
  int64_t *begin, *count, *total;  // lists: [node_blocks][task_rows]; total: [task_rows]
  uint32_t* masks;
  DenseScratch dense;
};

static AttentionPlan plan_attention(const AttentionProblem& p, Arena& arena) {
  AttentionPlan plan;
  plan.layout = choose_layout(p);
  const int64_t step = plan.layout.step();
  const int64_t fitting = kPackBytes / 4 / (2 * step);
  plan.node_block = most(1, least(p.nodes, most(32, fitting / 32 * 32)));  // whole words; indices fit in 16 bits
  plan.node_block = least(plan.node_block, 32768);
  plan.node_blocks = most(1, split_up(p.nodes, plan.node_block));
  // Packing k and v costs as much as a few nodes per row: many rows must share it, the more the more nodes there are.
  const int64_t wanted_rows = p.nodes <= 4096 ? 256 : 512;
  const int64_t fitting_rows = (1 << 16) / (step + 2 * W) / R * R;
  plan.task_rows = least(round_up(p.rows, R), most(R, least(wanted_rows, fitting_rows)));
  plan.row_tasks = split_up(p.rows, plan.task_rows);
  const int64_t shared = p.groups == 1 ? p.heads : 1;
  const int64_t tasks = p.batch * plan.row_tasks * (p.heads / shared);
  plan.task_heads = round_up(most(1, shared / most(1, split_up(kWantedTasks, tasks))), plan.layout.heads);
  plan.head_tasks = split_up(p.heads, plan.task_heads);

  const int64_t row_entries = p.nodes + plan.node_blocks * W;
  plan.list_entries = least(most(kListEntries, R * row_entries), plan.task_rows * row_entries) + 64;
  plan.k = take<float>(arena, (plan.node_block + 1) * step);
  plan.v = take<float>(arena, (plan.node_block + 1) * step);
  plan.q = take<float>(arena, R * step);
  plan.state = take<float>(arena, plan.task_rows * (step + 2 * W));
  // The nodes of a range, and those left over from earlier ranges because they did not fill a group.
  plan.weight_step = (split_up(least(plan.node_block, range_of(step)), plan.layout.parts) + 1) * W;
  plan.weights = take<float>(arena, R * plan.weight_step);
  const int64_t padded = round_up(most(p.channels, p.value_channels), W);
  plan.rows_buffer = take<float>(arena, p.dtype == KEYGRAPH_FLOAT32 ? 0 : plan.layout.heads * padded);
  plan.list = take<uint16_t>(arena, plan.list_entries);
  plan.begin = take<int64_t>(arena, plan.task_rows * plan.node_blocks);
  plan.count = take<int64_t>(arena, plan.task_rows * plan.node_blocks);
  plan.total = take<int64_t>(arena, plan.task_rows);
  plan.masks = take<uint32_t>(arena, p.nodes);
  plan.dense = plan_dense(p, arena);
  return plan;
}

static Split attention_split(const AttentionProblem& p) {
  Arena arena = {nullptr, 0};
  const AttentionPlan plan = plan_attention(p, arena);
  return {static_cast<size_t>(p.batch * plan.row_tasks * plan.head_tasks), arena.used};
}

static bool all_finite(keygraph_dtype dtype, const void* from, Rows rows, int64_t count, int64_t channels) {
  if (rows.step == channels) {  // without gaps, treat the rows as one long row
    channels *= count;
    count = 1;
  }
  F sum = set1(0.0f);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < channels; i += W) {
      float x[2 * W];  // W elements are used; twice as many avoid a false warning of GCC 12
      const int64_t n = least(W, channels - i);
      widen(dtype, from, rows.at(row) + i, n, 0.0f, x, W);  // 0 * x is NaN if x is not finite
      sum = add(sum, load(x));
    }
  }
  return !any(is_nan(sum));
}

KEYGRAPH_INLINE uint32_t graph_word(const AttentionProblem& p, const int32_t* row, int64_t word) {
  const int64_t left = p.nodes - word * 32;  // bits past the last node are ignored
  const uint32_t bits_of_word = static_cast<uint32_t>(row[word]);
  return left >= 32 ? bits_of_word : bits_of_word & ((1u << left) - 1);
}

// The crossover of the two kernels was measured for each instruction set: docs/measurements/performance.md.
KEYGRAPH_INLINE bool dense_is_faster(int64_t selected, int64_t possible) {
  return selected * 100 > possible * kDensePercent;
}

// Lists of the rows' selected nodes, block by block; each block's part is padded to whole groups.
static int64_t list_nodes(const AttentionProblem& p, const AttentionPlan& plan, const int32_t* graph, int64_t rows,
                          int64_t first, int64_t used) {
  for (int64_t row = first; row < first + rows; ++row) {
    const int32_t* words = graph + (row - first) * p.words;
    for (int64_t block = 0; block < plan.node_blocks; ++block) {
      const int64_t first_node = block * plan.node_block;
      const int64_t nodes = least(plan.node_block, p.nodes - first_node);
      uint16_t* const begin = plan.list + used;
      uint16_t* end = begin;
      for (int64_t word = first_node / 32; word * 32 < first_node + nodes; ++word)
        end = append_nodes(end, graph_word(p, words, word), static_cast<int>(word * 32 - first_node));
      const int64_t count = end - begin;
      plan.begin[block * plan.task_rows + row] = used;
      plan.count[block * plan.task_rows + row] = count;
      const int64_t padded = round_up(count, W);
      for (int64_t i = count; i < padded; ++i) begin[i] = static_cast<uint16_t>(nodes);
      used += padded;
    }
  }
  return used;
}

// Computes the heads from `head` on that fit in one layout.
template <int P>
static void sparse_heads(const AttentionProblem& p, const AttentionPlan& plan, int64_t batch, int64_t head,
                         int64_t first_row, int64_t rows, const bool* dense) {
  const int64_t heads = least(W / P, p.heads - head), vectors = plan.layout.vectors, step = plan.layout.step();
  const int64_t state_step = step + 2 * W;
  const Rows q_rows = rows_of(p, batch, head, p.rows, p.channels),
             k_rows = rows_of(p, batch, head, p.nodes, p.channels),
             v_rows = rows_of(p, batch, head, p.nodes, p.value_channels),
             output_rows = rows_of(p, batch, head, p.rows, p.value_channels);
  const int64_t q_head = p.heads_last ? p.channels : p.rows * p.channels,
                k_head = p.heads_last ? p.channels : p.nodes * p.channels,
                v_head = p.heads_last ? p.value_channels : p.nodes * p.value_channels,
                output_head = p.heads_last ? p.value_channels : p.rows * p.value_channels;
  for (int64_t i = 0; i < rows; ++i) {
    float* state = plan.state + i * state_step;
    memset(state, 0, static_cast<size_t>(step + W) * 4);
    store(state + step + W, set1(kLowest));
  }
  const int64_t range = range_of(step);
  const auto kernel = sparse_kernel<P>(vectors);
  for (int64_t block = 0; block < plan.node_blocks; ++block) {
    const int64_t first_node = block * plan.node_block;
    const int64_t nodes = least(plan.node_block, p.nodes - first_node);
    pack_heads<P>(p.dtype, p.k, k_rows.from(first_node), k_head, heads, nodes, p.channels, 1.0f, vectors, plan.k, step,
                  plan.rows_buffer);
    pack_heads<P>(p.dtype, p.v, v_rows.from(first_node), v_head, heads, nodes, p.value_channels, 1.0f, vectors, plan.v,
                  step, plan.rows_buffer);
    memset(plan.k + nodes * step, 0, static_cast<size_t>(step) * 4);
    memset(plan.v + nodes * step, 0, static_cast<size_t>(step) * 4);
    for (int64_t i = 0; i < rows; i += R) {
      if (dense[i / R]) continue;
      const int64_t count = least(R, rows - i);
      pack_heads<P>(p.dtype, p.q, q_rows.from(first_row + i), q_head, heads, count, p.channels, p.scale * kLog2E,
                    vectors, plan.q, step, plan.rows_buffer);
      const uint16_t *next[R], *end[R];
      for (int64_t row = 0; row < count; ++row) {
        const int64_t at = block * plan.task_rows + i + row;
        next[row] = plan.list + plan.begin[at];
        end[row] = next[row] + plan.count[at];
      }
      const int64_t bias_offset = bias_row_of(p, batch, head, first_row + i) * p.nodes + first_node;
      const void* bias =
          p.bias ? static_cast<const char*>(p.bias) + bias_offset * static_cast<int64_t>(size_of(p.dtype)) : nullptr;
      SparseBatch sparse = {count,
                            next,
                            end,
                            0,
                            vectors,
                            plan.q,
                            plan.k,
                            plan.v,
                            plan.weights,
                            plan.weight_step,
                            plan.state + i * state_step,
                            bias,
                            p.dtype,
                            p.nodes,
                            p.rows * p.nodes,
                            heads};
      for (int64_t node = 0; node < nodes; node += range) {
        sparse.limit = node + range < nodes ? node + range : nodes + 1;  // the last one includes the lists' padding
        kernel(sparse);
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i)
    if (!dense[i / R])
      unpack_heads<P>(plan.state + i * state_step, vectors, plan.total[i] != 0, p.dtype, p.output,
                      output_rows.at(first_row + i), output_head, heads, p.value_channels);
}

static void sparse_rows(const AttentionProblem& p, const AttentionPlan& plan, int64_t batch, int64_t first_head,
                        int64_t last_head, int64_t first_row, int64_t rows, const bool* dense) {
  const auto part = plan.layout.parts == W       ? sparse_heads<W>
                    : plan.layout.parts == W / 2 ? sparse_heads<W / 2>
                                                 : sparse_heads<kFewParts>;
  for (int64_t head = first_head; head < last_head; head += plan.layout.heads)
    part(p, plan, batch, head, first_row, rows, dense);
}

constexpr int64_t kMaxBatches = 512 / R + 1;

static void attention_task(const AttentionProblem& p, size_t task, char* scratch) {
  Arena arena = {scratch, 0};
  const AttentionPlan plan = plan_attention(p, arena);
  const int64_t index = static_cast<int64_t>(task);
  const int64_t batch = index / (plan.row_tasks * plan.head_tasks);
  const int64_t first_row = index / plan.head_tasks % plan.row_tasks * plan.task_rows;
  const int64_t last_row = least(p.rows, first_row + plan.task_rows);
  const int64_t first_head = index % plan.head_tasks * plan.task_heads;
  const int64_t last_head = least(p.heads, first_head + plan.task_heads);
  const int64_t group = p.groups == 1 ? 0 : first_head;
  const int32_t* graph = p.graph + (batch * p.groups + group) * p.rows * p.words;

  int finite = -1;  // computed once, and only if a batch needs the dense kernel
  for (int64_t row = first_row; row < last_row;) {
    // A chunk: as many batches as fit in the list of selected nodes.
    int64_t rows = 0, used = 0;
    bool dense[kMaxBatches], any_sparse = false;
    while (row + rows < last_row) {
      const int64_t count = least(R, last_row - row - rows);
      const int32_t* words = graph + (row + rows) * p.words;
      int64_t selected = 0;
      for (int64_t i = 0; i < count; ++i) {
        int64_t total = 0;
        for (int64_t word = 0; word < p.words; ++word)
          total += __builtin_popcount(graph_word(p, words + i * p.words, word));
        plan.total[rows + i] = total;
        selected += total;
      }
      bool is_dense = dense_is_faster(selected, count * p.nodes);
      if (is_dense && finite < 0) {
        finite = 1;
        for (int64_t head = first_head; head < last_head && finite; ++head)
          finite =
              all_finite(p.dtype, p.v, rows_of(p, batch, head, p.nodes, p.value_channels), p.nodes, p.value_channels);
      }
      is_dense = is_dense && finite == 1;
      if (!is_dense) {
        if (used + selected + count * plan.node_blocks * W > plan.list_entries - 64) break;
        used = list_nodes(p, plan, words, count, rows, used);
        any_sparse = true;
      }
      dense[rows / R] = is_dense;
      rows += count;
    }
    for (int64_t i = 0; i < rows; i += R) {
      if (!dense[i / R]) continue;
      const int64_t count = least(R, rows - i);
      transpose_graph(graph + (row + i) * p.words, count, p.nodes, p.words, plan.masks);
      for (int64_t head = first_head; head < last_head; ++head)
        dense_batch(p, batch, head, row + i, count, plan.masks, plan.total + i, plan.dense);
    }
    if (any_sparse) sparse_rows(p, plan, batch, first_head, last_head, row, rows, dense);
    row += rows;
  }
}
