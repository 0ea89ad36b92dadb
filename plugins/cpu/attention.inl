// SPDX-License-Identifier: Apache-2.0
//
// KeyGraphAttention: splits the work, reads the graph once for all heads that share it, and takes for each batch of R
// rows the sparse or the dense way, whichever costs less.

constexpr int64_t kPackBytes = 1 << 19;      // packed k and v of one block of nodes
constexpr int64_t kListEntries = 1 << 17;    // selected nodes of one chunk of rows
constexpr int64_t kWantedTasks = 12;         // enough to share evenly among a few threads

struct AttentionPlan {
  int64_t key_stride, value_stride;
  int64_t node_block, node_blocks;
  int64_t task_rows, row_tasks;     // rows are split first,
  int64_t task_heads, head_tasks;   // then heads; the heads of a task share one graph
  int64_t list_entries;
  float *k, *v, *q, *weights, *largest, *sum, *acc;
  uint16_t* list;
  int64_t *begin, *count, *total;
  uint32_t* masks;
  DenseScratch dense;
};

static AttentionPlan plan_attention(const AttentionProblem& p, Arena& arena) {
  AttentionPlan plan;
  plan.key_stride = most(W, round_up(p.channels, W));
  plan.value_stride = round_up(p.value_channels, W);
  const int64_t fitting = kPackBytes / 4 / (plan.key_stride + plan.value_stride);
  plan.node_block = most(1, least(p.nodes, most(32, fitting / 32 * 32)));  // whole words; indices fit in 16 bits
  plan.node_block = least(plan.node_block, 32768);
  plan.node_blocks = most(1, split_up(p.nodes, plan.node_block));
  // Packing k and v costs as much as a few nodes per row: many rows must share it, more where there are more nodes.
  const int64_t wanted_rows = p.nodes <= 4096 ? 256 : 512;
  const int64_t fitting_rows = (1 << 16) / plan.value_stride / R * R;
  plan.task_rows = least(round_up(p.rows, R), most(R, least(wanted_rows, fitting_rows)));
  plan.row_tasks = split_up(p.rows, plan.task_rows);
  const int64_t shared = p.groups == 1 ? p.heads : 1;
  const int64_t tasks = p.batch * plan.row_tasks * (p.heads / shared);
  plan.task_heads = most(1, shared / most(1, split_up(kWantedTasks, tasks)));
  plan.head_tasks = split_up(p.heads, plan.task_heads);

  const int64_t row_entries = p.nodes + plan.node_blocks * W;
  plan.list_entries = least(most(kListEntries, R * row_entries), plan.task_rows * row_entries) + 64;
  plan.k = take<float>(arena, (plan.node_block + 1) * plan.key_stride);
  plan.v = take<float>(arena, (plan.node_block + 1) * plan.value_stride);
  plan.q = take<float>(arena, R * plan.key_stride);
  plan.weights = take<float>(arena, R * round_up(plan.node_block, W));
  plan.largest = take<float>(arena, plan.task_rows);
  plan.sum = take<float>(arena, plan.task_rows);
  plan.acc = take<float>(arena, plan.task_rows * plan.value_stride);
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

// Packed rows [count][stride], and a row of zeros behind them.
static void pack_nodes(keygraph_dtype dtype, const void* from, Rows rows, int64_t count, int64_t channels,
                       int64_t stride, float* to) {
  if (dtype == KEYGRAPH_FLOAT32) {
    const float* source = static_cast<const float*>(from) + rows.first;
    const int64_t whole = channels / W * W;
    const int rest = static_cast<int>(channels - whole);
    for (int64_t node = 0; node < count; ++node, source += rows.step) {
      float* target = to + node * stride;
      for (int64_t c = 0; c < whole; c += W) store(target + c, load(source + c));
      if (whole < stride) store(target + whole, load_some(source + whole, rest));
    }
  } else {
    for (int64_t node = 0; node < count; ++node)
      widen(dtype, from, rows.first + node * rows.step, channels, 1.0f, to + node * stride, stride);
  }
  memset(to + count * stride, 0, static_cast<size_t>(stride) * 4);
}

static bool all_finite(keygraph_dtype dtype, const void* from, Rows rows, int64_t count, int64_t channels) {
  if (rows.step == channels) {  // rows without gaps are one long row
    channels *= count;
    count = 1;
  }
  F sum = set1(0.0f);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < channels; i += W) {
      float x[2 * W];  // W are used; GCC 12 does not see that, and warns
      const int64_t n = least(W, channels - i);
      widen(dtype, from, rows.at(row) + i, n, 0.0f, x, W);  // 0 times what is not finite is NaN
      sum = add(sum, load(x));
    }
  }
  return !any(is_nan(sum));
}

KEYGRAPH_INLINE uint32_t graph_word(const AttentionProblem& p, const int32_t* row, int64_t word) {
  const int64_t left = p.nodes - word * 32;  // bits past the last node mean nothing
  const uint32_t bits_of_word = static_cast<uint32_t>(row[word]);
  return left >= 32 ? bits_of_word : bits_of_word & ((1u << left) - 1);
}

// Where the two ways cost the same was measured for each instruction set: docs/performance.md.
KEYGRAPH_INLINE bool dense_is_faster(int64_t selected, int64_t possible) {
  return selected * 100 > possible * kDensePercent;
}

// The rows' selected nodes, block by block, each block's part padded to whole groups.
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

// The batch's own output, and the batch's share of what the next head needs; after the last head, the same one again.
// With the heads last, the next head's numbers lie beside this one's, and came with them.
static Ahead look_ahead(const AttentionProblem& p, int64_t slice, int64_t first_row, int64_t row, int64_t rows) {
  if (p.heads_last) return {{}, {}, Ahead::kRanges};
  const int64_t next = least(slice + 1, p.batch * p.heads - 1), last = least(row + R, rows);
  const int64_t node = row * p.nodes / rows, last_node = last * p.nodes / rows;
  const int64_t size = static_cast<int64_t>(size_of(p.dtype));
  const auto at = [size](const void* base, int64_t element) { return static_cast<const char*>(base) + element * size; };
  const int64_t output = (slice * p.rows + first_row) * p.value_channels;
  const int64_t q = (next * p.rows + first_row) * p.channels;
  const int64_t k = next * p.nodes * p.channels, v = next * p.nodes * p.value_channels;
  return {{at(p.output, output + row * p.value_channels), at(p.q, q + row * p.channels),
           at(p.k, k + node * p.channels), at(p.v, v + node * p.value_channels)},
          {at(p.output, output + last * p.value_channels), at(p.q, q + last * p.channels),
           at(p.k, k + last_node * p.channels), at(p.v, v + last_node * p.value_channels)},
          0};
}

static void sparse_head(const AttentionProblem& p, const AttentionPlan& plan, int64_t batch, int64_t head,
                        int64_t first_row, int64_t rows, const bool* dense) {
  const int64_t slice = batch * p.heads + head;
  const Rows q_rows = rows_of(p, batch, head, p.rows, p.channels), k_rows = rows_of(p, batch, head, p.nodes, p.channels),
             v_rows = rows_of(p, batch, head, p.nodes, p.value_channels),
             output_rows = rows_of(p, batch, head, p.rows, p.value_channels);
  for (int64_t i = 0; i < round_up(rows, R); ++i) {
    plan.largest[i] = -__builtin_inff();
    plan.sum[i] = 0;
  }
  memset(plan.acc, 0, static_cast<size_t>(rows * plan.value_stride) * 4);
  for (int64_t block = 0; block < plan.node_blocks; ++block) {
    const int64_t node = block * plan.node_block;
    const int64_t nodes = least(plan.node_block, p.nodes - node);
    pack_nodes(p.dtype, p.k, k_rows.from(node), nodes, p.channels, plan.key_stride, plan.k);
    pack_nodes(p.dtype, p.v, v_rows.from(node), nodes, p.value_channels, plan.value_stride, plan.v);
    for (int64_t i = 0; i < rows; i += R) {
      if (dense[i / R]) continue;
      const int64_t count = least(R, rows - i);
      for (int64_t row = 0; row < count; ++row)
        widen(p.dtype, p.q, q_rows.at(first_row + i + row), p.channels, p.scale * kLog2E,
              plan.q + row * plan.key_stride, plan.key_stride);
      const int64_t bias_offset = (head * p.rows + first_row + i) * p.nodes + node;
      const void* bias =
          p.bias ? static_cast<const char*>(p.bias) + bias_offset * static_cast<int64_t>(size_of(p.dtype)) : nullptr;
      Ahead ahead = look_ahead(p, slice, first_row, i, rows);
      sparse_batch({count, plan.list, plan.begin + block * plan.task_rows + i, plan.count + block * plan.task_rows + i,
                    plan.q, plan.k, plan.v, bias, p.dtype, p.nodes, plan.key_stride, plan.value_stride, plan.weights,
                    round_up(plan.node_block, W), block == 0, plan.largest + i, plan.sum + i,
                    plan.acc + i * plan.value_stride, &ahead});
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    if (dense[i / R]) continue;
    float* acc = plan.acc + i * plan.value_stride;
    if (plan.total[i] != 0) {
      const F share = set1(1.0f / plan.sum[i]);
      for (int64_t c = 0; c < plan.value_stride; c += W) store(acc + c, mul(load(acc + c), share));
    }
    narrow(p.dtype, acc, p.value_channels, p.output, output_rows.at(first_row + i));
  }
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

  int finite = -1;  // looked at once, and only if a batch wants the dense way
  for (int64_t row = first_row; row < last_row;) {
    // A chunk: as many batches as the list of selected nodes has room for.
    int64_t rows = 0, used = 0;
    bool dense[kMaxBatches], any_sparse = false;
    while (row + rows < last_row) {
      const int64_t count = least(R, last_row - row - rows);
      const int32_t* words = graph + (row + rows) * p.words;
      int64_t selected = 0;
      for (int64_t i = 0; i < count; ++i) {
        int64_t total = 0;
        for (int64_t word = 0; word < p.words; ++word) total += __builtin_popcount(graph_word(p, words + i * p.words, word));
        plan.total[rows + i] = total;
        selected += total;
      }
      bool is_dense = dense_is_faster(selected, count * p.nodes);
      if (is_dense && finite < 0) {
        finite = 1;
        for (int64_t head = first_head; head < last_head && finite; ++head)
          finite = all_finite(p.dtype, p.v, rows_of(p, batch, head, p.nodes, p.value_channels), p.nodes,
                              p.value_channels);
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
    if (any_sparse)
      for (int64_t head = first_head; head < last_head; ++head)
        sparse_head(p, plan, batch, head, row, rows, dense);
    row += rows;
  }
}
