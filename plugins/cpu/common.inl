// SPDX-License-Identifier: Apache-2.0
//
// Shared by the operators: storage types, 2^x, transposition, and the product of a panel with rows of scalars.

constexpr int R = 2 * W;  // rows computed together: one lane per row, two vectors

KEYGRAPH_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
KEYGRAPH_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
KEYGRAPH_INLINE int64_t round_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit * unit; }
KEYGRAPH_INLINE int64_t split_up(int64_t a, int64_t unit) { return (a + unit - 1) / unit; }

// Allocates parts of a task's scratch memory, each on its own cache lines; a first pass with null only sums the sizes.
struct Arena {
  char* base;
  size_t used;
};
template <class T>
KEYGRAPH_INLINE T* take(Arena& arena, int64_t count) {
  T* part = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(arena.base) + arena.used);
  arena.used += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  return part;
}

// ---- storage types ----

KEYGRAPH_INLINE size_t size_of(keygraph_dtype dtype) { return dtype == KEYGRAPH_FLOAT32 ? 4 : 2; }

KEYGRAPH_INLINE F load_bfloat(const uint16_t* p) {
  float wide[W];
  KEYGRAPH_UNROLL
  for (int lane = 0; lane < W; ++lane) {
    const uint32_t word = static_cast<uint32_t>(p[lane]) << 16;
    memcpy(wide + lane, &word, 4);
  }
  return load(wide);
}

KEYGRAPH_INLINE void store_bfloat(uint16_t* p, F a) {  // rounds to nearest, ties to even
  uint32_t wide[W];
  memcpy(wide, &a, sizeof wide);
  KEYGRAPH_UNROLL
  for (int lane = 0; lane < W; ++lane) {
    const bool nan = (wide[lane] & 0x7fffffffu) > 0x7f800000u;
    p[lane] = static_cast<uint16_t>(nan ? (wide[lane] >> 16) | 0x40u
                                        : (wide[lane] + 0x7fffu + ((wide[lane] >> 16) & 1u)) >> 16);
  }
}

// to[0 .. count) = factor * from[offset ..], then zeros up to `padded`, which is `count` or a multiple of W.
static void widen(keygraph_dtype dtype, const void* from, int64_t offset, int64_t count, float factor, float* to,
                  int64_t padded) {
  const F f = set1(factor);
  const int64_t whole = count / W * W;
  const int64_t rest = count - whole;
  F wide = set1(0.0f);
  if (dtype == KEYGRAPH_FLOAT32) {
    const float* source = static_cast<const float*>(from) + offset;
    for (int64_t i = 0; i < whole; i += W) store(to + i, mul(f, load(source + i)));
    if (rest) wide = mul(f, load_some(source + whole, static_cast<int>(rest)));
  } else {
    const uint16_t* source = static_cast<const uint16_t*>(from) + offset;
    const bool half = dtype == KEYGRAPH_FLOAT16;
    for (int64_t i = 0; i < whole; i += W)
      store(to + i, mul(f, half ? load_half(source + i) : load_bfloat(source + i)));
    if (rest) {
      uint16_t last[W] = {};
      memcpy(last, source + whole, static_cast<size_t>(rest) * 2);
      wide = mul(f, half ? load_half(last) : load_bfloat(last));
    }
  }
  if (rest && padded > count) store(to + whole, wide);
  if (rest && padded == count) store_some(to + whole, wide, static_cast<int>(rest));
  for (int64_t i = count + (rest ? W - rest : 0); i < padded; i += W) store(to + i, set1(0.0f));
}

// to[0 .. count) = from[offset ..], by the bits; `to` has room for a multiple of W.
static void widen_exactly(keygraph_dtype dtype, const void* from, int64_t offset, int64_t count, float* to) {
  if (dtype == KEYGRAPH_FLOAT32) {
    memcpy(to, static_cast<const float*>(from) + offset, static_cast<size_t>(count) * 4);
    return;
  }
  const uint16_t* source = static_cast<const uint16_t*>(from) + offset;
  const bool half = dtype == KEYGRAPH_FLOAT16;
  const int64_t whole = count / W * W;
  for (int64_t i = 0; i < whole; i += W) store(to + i, half ? load_half(source + i) : load_bfloat(source + i));
  if (whole == count) return;
  uint16_t last[W] = {};
  memcpy(last, source + whole, static_cast<size_t>(count - whole) * 2);
  store(to + whole, half ? load_half(last) : load_bfloat(last));
}

// to[offset ..] = from[0 .. count)
static void narrow(keygraph_dtype dtype, const float* from, int64_t count, void* to, int64_t offset) {
  if (dtype == KEYGRAPH_FLOAT32) {
    memcpy(static_cast<float*>(to) + offset, from, static_cast<size_t>(count) * 4);
    return;
  }
  uint16_t* target = static_cast<uint16_t*>(to) + offset;
  for (int64_t i = 0; i < count; i += W) {
    float wide[W] = {};
    uint16_t last[W];
    const int64_t n = least(W, count - i);
    memcpy(wide, from + i, static_cast<size_t>(n) * 4);
    if (dtype == KEYGRAPH_FLOAT16)
      store_half(last, load(wide));
    else
      store_bfloat(last, load(wide));
    memcpy(target + i, last, static_cast<size_t>(n) * 2);
  }
}

// Offsets of the rows of a matrix in a tensor, in elements.
struct Rows {
  int64_t first, step;
  int64_t at(int64_t row) const { return first + row * step; }
  Rows from(int64_t row) const { return {at(row), step}; }
};

// One head's rows of q, k, v or output.
KEYGRAPH_INLINE Rows rows_of(const AttentionProblem& p, int64_t batch, int64_t head, int64_t rows, int64_t channels) {
  if (p.heads_last) return {(batch * rows * p.heads + head) * channels, p.heads * channels};
  return {(batch * p.heads + head) * rows * channels, channels};
}

struct FloatRows {
  const float* data;
  int64_t step;
};

// Rows as float32: the tensor's own if it is float32, else a widened copy in `buffer`.
KEYGRAPH_INLINE FloatRows as_float(keygraph_dtype dtype, const void* from, Rows rows, int64_t count, int64_t channels,
                                   float* buffer) {
  if (dtype == KEYGRAPH_FLOAT32) return {static_cast<const float*>(from) + rows.first, rows.step};
  for (int64_t row = 0; row < count; ++row)
    widen(dtype, from, rows.at(row), channels, 1.0f, buffer + row * channels, channels);
  return {buffer, channels};
}

// ---- arithmetic ----

#if !defined(KEYGRAPH_HAS_EXP2)
// 2^x for x <= 0, exactly 1 at 0, exactly 0 below -126, NaN for NaN. Relative error at most 1.8e-7 (1.5 ulp):
// x = n + r with |r| <= 1/2; 2^r is a polynomial of degree 5 (minimax, 9.2e-8); n goes into the exponent.
KEYGRAPH_INLINE F exp2_negative(F x) {
  const F magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  const F y = max_or_second(set1(-126.0f), x);
  const F shifted = add(y, magic);
  const F r = sub(y, sub(shifted, magic));
  F p = set1(0x1.5bba14p-10f);
  p = fma(p, r, set1(0x1.3cea88p-7f));
  p = fma(p, r, set1(0x1.c6b752p-5f));
  p = fma(p, r, set1(0x1.ebf9bcp-3f));
  p = fma(p, r, set1(0x1.62e42ap-1f));
  p = fma(p, r, set1(1.0f));
  const F result = from_bits(iadd(bits(p), shl<23>(bits(shifted))));
  return zero_where(less(x, set1(-126.0f)), result);
}
#endif

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLowest = -3.402823466e38f;

// Interleaves x[i] with x[i + n/2], log2(times) times: the bits of an element's place, vector before lane, rotate by
// one each time. So W times transposes W vectors, and W / n times more undoes what n times have done.
template <int n, int times>
KEYGRAPH_INLINE void interleave(F (&x)[n]) {
  if constexpr (n > 1 && times > 1) {
    F y[n];
    KEYGRAPH_UNROLL
    for (int i = 0; i < n / 2; ++i) {
      y[2 * i] = zip_low(x[i], x[i + n / 2]);
      y[2 * i + 1] = zip_high(x[i], x[i + n / 2]);
    }
    interleave<n, times / 2>(y);
    KEYGRAPH_UNROLL
    for (int i = 0; i < n; ++i) x[i] = y[i];
  }
}

KEYGRAPH_INLINE void transpose(F (&x)[W]) { interleave<W, W>(x); }

struct Sum {
  static KEYGRAPH_MEMBER F of(F a, F b) { return add(a, b); }
};
struct Largest {
  static KEYGRAPH_MEMBER F of(F a, F b) { return max_or_second(a, b); }
};

// Reduces `count` vectors, each over its lanes that are a multiple of W / count apart, halving the number of vectors
// until one is left: its lane i * (W / count) + j holds the result of x[i]'s lanes j.
template <class Op, int count, int distance>
KEYGRAPH_INLINE F reduce(F (&x)[count]) {
  if constexpr (count == 1) {
    return x[0];
  } else {
    F y[count / 2];
    KEYGRAPH_UNROLL
    for (int i = 0; i < count / 2; ++i) y[i] = fold<Op, distance>(x[i], x[i + count / 2]);
    return reduce<Op, count / 2, distance / 2>(y);
  }
}

// Reduces each lane with all lanes that are a multiple of H apart.
template <class Op, int H, int distance>
KEYGRAPH_INLINE F combine_parts(F x) {
  if constexpr (distance < H)
    return x;
  else
    return combine_parts<Op, H, distance / 2>(fold<Op, distance>(x, x));
}

// panel[c][row] = factor * from[row][c]; rows past the last are zeros. `rows_buffer` holds W padded rows.
template <int RV>
static void pack_panel(keygraph_dtype dtype, const void* from, Rows source, int64_t rows, int64_t channels,
                       float factor, float* panel, float* rows_buffer) {
  const int64_t padded = round_up(channels, W);
  KEYGRAPH_UNROLL
  for (int v = 0; v < RV; ++v) {
    KEYGRAPH_UNROLL
    for (int lane = 0; lane < W; ++lane) {
      const int64_t row = v * W + lane;
      if (row < rows)
        widen(dtype, from, source.at(row), channels, factor, rows_buffer + lane * padded, padded);
      else
        for (int64_t c = 0; c < padded; ++c) rows_buffer[lane * padded + c] = 0;
    }
    for (int64_t c = 0; c < channels; c += W) {
      F x[W];
      KEYGRAPH_UNROLL
      for (int lane = 0; lane < W; ++lane) x[lane] = load(rows_buffer + lane * padded + c);
      transpose(x);
      KEYGRAPH_UNROLL
      for (int i = 0; i < W; ++i)
        if (c + i < channels) store(panel + ((c + i) * RV + v) * W, x[i]);
    }
  }
}

// ---- the product ----
// out[t][row] (+)= sum over c of scalars[t * scalar_step + c * depth_step] * panel[c][row], rows in lanes.
// One multiply-add per lane and term, in the order of c: S[i][j] is the same whichever side is the panel.

struct Product {
  const float* panel;
  const float* scalars;
  int64_t scalar_step, depth_step, depth;
  float* out;
  bool accumulate;
};

template <int T, int RV>
static __attribute__((noinline)) void product_tile(const Product& p) {
  F sum[T][RV];
  KEYGRAPH_UNROLL
  for (int t = 0; t < T; ++t) {
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) sum[t][v] = p.accumulate ? load(p.out + (t * RV + v) * W) : set1(0.0f);
  }
  const float* panel = p.panel;
  const int64_t step = p.scalar_step;
  const int64_t depth_step = p.depth_step;
  // One pointer for three rows of scalars: x86 addresses the others as pointer + step and pointer + 2 step.
  constexpr int kPointers = (T + 2) / 3;
  const float* scalars[kPointers];
  KEYGRAPH_UNROLL
  for (int i = 0; i < kPointers; ++i) scalars[i] = p.scalars + 3 * i * step;
  for (int64_t c = p.depth; c > 0; --c) {
    F x[RV];
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) x[v] = load(panel + v * W);
    panel += RV * W;
    KEYGRAPH_UNROLL
    for (int t = 0; t < T; ++t) {
      const F y = set1(scalars[t / 3][(t % 3) * step]);
      KEYGRAPH_UNROLL
      for (int v = 0; v < RV; ++v) sum[t][v] = fma(x[v], y, sum[t][v]);
    }
    KEYGRAPH_UNROLL
    for (int i = 0; i < kPointers; ++i) scalars[i] += depth_step;
  }
  KEYGRAPH_UNROLL
  for (int t = 0; t < T; ++t) {
    KEYGRAPH_UNROLL
    for (int v = 0; v < RV; ++v) store(p.out + (t * RV + v) * W, sum[t][v]);
  }
}

template <int T, int RV>
struct Remainder {
  static void run(const Product& p, int64_t count) {
    if (count == T)
      product_tile<T, RV>(p);
    else
      Remainder<T - 1, RV>::run(p, count);
  }
};
template <int RV>
struct Remainder<0, RV> {
  static void run(const Product&, int64_t) {}
};

template <int RV>
static void product(Product p, int64_t count) {
  for (; count >= kTile; count -= kTile) {
    product_tile<kTile, RV>(p);
    p.scalars += kTile * p.scalar_step;
    p.out += kTile * RV * W;
  }
  Remainder<kTile - 1, RV>::run(p, count);
}
