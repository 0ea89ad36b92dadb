// SPDX-License-Identifier: Apache-2.0
//
// Vectors of 4 lanes in the compiler's own vector types: SSE2 on x86-64, NEON on aarch64, scalars elsewhere.
// The vocabulary of the kernels: the other vector_*.h files define the same names, wider.
constexpr int W = 4;               // lanes of F and I
constexpr int kTile = 4;           // the product works on kTile x 2 accumulators
constexpr int kDensePercent = 92;  // of the nodes selected: from here on the dense way is faster (measured)
typedef float F __attribute__((vector_size(16), may_alias));
typedef int32_t I __attribute__((vector_size(16), may_alias));
typedef uint32_t U __attribute__((vector_size(16), may_alias));
typedef float FUnaligned __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t IUnaligned __attribute__((vector_size(16), aligned(4), may_alias));
using M = I;  // a mask: all bits of a lane, or none

KEYGRAPH_INLINE F load(const float* p) { return *reinterpret_cast<const FUnaligned*>(p); }
KEYGRAPH_INLINE void store(float* p, F a) { *reinterpret_cast<FUnaligned*>(p) = a; }
KEYGRAPH_INLINE F load_some(const float* p, int n) {  // n < W; the other lanes are 0, and not read
  return F{n > 0 ? p[0] : 0.0f, n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, 0.0f};
}
KEYGRAPH_INLINE void store_some(float* p, F a, int n) {
  for (int lane = 0; lane < n; ++lane) p[lane] = a[lane];
}
KEYGRAPH_INLINE F set1(float a) { return F{a, a, a, a}; }
KEYGRAPH_INLINE F fma(F a, F b, F c) { return a * b + c; }  // fused where the compiler can
KEYGRAPH_INLINE F add(F a, F b) { return a + b; }
KEYGRAPH_INLINE F sub(F a, F b) { return a - b; }
KEYGRAPH_INLINE F mul(F a, F b) { return a * b; }
KEYGRAPH_INLINE F div(F a, F b) { return a / b; }
KEYGRAPH_INLINE I bits(F a) { return reinterpret_cast<I>(a); }
KEYGRAPH_INLINE F from_bits(I a) { return reinterpret_cast<F>(a); }
KEYGRAPH_INLINE I ichoose(M m, I yes, I no) { return (m & yes) | (~m & no); }
KEYGRAPH_INLINE F choose(M m, F yes, F no) { return from_bits(ichoose(m, bits(yes), bits(no))); }
KEYGRAPH_INLINE F zero_where(M m, F a) { return from_bits(~m & bits(a)); }
KEYGRAPH_INLINE I iload(const int32_t* p) { return *reinterpret_cast<const IUnaligned*>(p); }
KEYGRAPH_INLINE void istore(int32_t* p, I a) { *reinterpret_cast<IUnaligned*>(p) = a; }
KEYGRAPH_INLINE I iset1(int32_t a) { return I{a, a, a, a}; }
// Unsigned inside: lanes wrap around, as the wider instruction sets' do.
KEYGRAPH_INLINE I iadd(I a, I b) { return reinterpret_cast<I>(reinterpret_cast<U>(a) + reinterpret_cast<U>(b)); }
KEYGRAPH_INLINE I isub(I a, I b) { return reinterpret_cast<I>(reinterpret_cast<U>(a) - reinterpret_cast<U>(b)); }
KEYGRAPH_INLINE I iand(I a, I b) { return a & b; }
KEYGRAPH_INLINE I ixor(I a, I b) { return a ^ b; }
template <int n>
KEYGRAPH_INLINE I shl(I a) {
  return reinterpret_cast<I>(reinterpret_cast<U>(a) << n);
}
template <int n>
KEYGRAPH_INLINE I shr(I a) {
  return reinterpret_cast<I>(reinterpret_cast<U>(a) >> n);
}
KEYGRAPH_INLINE I sign(I a) { return a >> 31; }
KEYGRAPH_INLINE F to_float(I a) { return __builtin_convertvector(a, F); }

KEYGRAPH_INLINE M igt(I a, I b) { return a > b; }
KEYGRAPH_INLINE M ige(I a, I b) { return a >= b; }
KEYGRAPH_INLINE M ieq(I a, I b) { return a == b; }
KEYGRAPH_INLINE M is_nan(F a) { return a != a; }
KEYGRAPH_INLINE M less(F a, F b) { return a < b; }
KEYGRAPH_INLINE M ge(F a, F b) { return a >= b; }  // not where either is NaN
KEYGRAPH_INLINE M both(M a, M b) { return a & b; }
KEYGRAPH_INLINE M either(M a, M b) { return a | b; }
KEYGRAPH_INLINE bool any(M a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
KEYGRAPH_INLINE bool all(M a) { return (a[0] & a[1] & a[2] & a[3]) != 0; }
KEYGRAPH_INLINE M lanes(uint32_t low_bits) {  // lane i is chosen by bit i
  const I lane = {1, 2, 4, 8};
  return (iset1(static_cast<int32_t>(low_bits)) & lane) == lane;
}
KEYGRAPH_INLINE uint32_t lane_bits(M a) {  // undoes `lanes`
  const I bit = a & I{1, 2, 4, 8};
  return static_cast<uint32_t>(bit[0] | bit[1] | bit[2] | bit[3]);
}
KEYGRAPH_INLINE I imax(I a, I b) { return ichoose(a > b, a, b); }
KEYGRAPH_INLINE I imin(I a, I b) { return ichoose(a < b, a, b); }
KEYGRAPH_INLINE F max_or_second(F a, F b) { return choose(a > b, a, b); }  // b where either is NaN
KEYGRAPH_INLINE I count_if(I count, M m) { return isub(count, m); }
KEYGRAPH_INLINE I or_if(I a, M m, I b) { return a | (m & b); }

KEYGRAPH_INLINE F zip_low(F a, F b) { return F{a[0], b[0], a[1], b[1]}; }
KEYGRAPH_INLINE F zip_high(F a, F b) { return F{a[2], b[2], a[3], b[3]}; }

KEYGRAPH_INLINE float half_to_float(uint16_t half) {
  const uint32_t sign_bit = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t mantissa = half & 1023u;
  uint32_t word;
  float result;
  if (exponent == 31) {
    word = sign_bit | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    word = sign_bit | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    result = static_cast<float>(mantissa) * 0x1p-24f;
    memcpy(&word, &result, 4);
    word |= sign_bit;
  }
  memcpy(&result, &word, 4);
  return result;
}
KEYGRAPH_INLINE uint16_t float_to_half(float value) {  // rounds to nearest, ties to even
  uint32_t word;
  memcpy(&word, &value, 4);
  const uint16_t sign_bit = static_cast<uint16_t>((word >> 16) & 0x8000u);
  word &= 0x7fffffffu;
  if (word > 0x7f800000u) return static_cast<uint16_t>(sign_bit | 0x7e00u | ((word >> 13) & 0x3ffu));
  if (word >= 0x477ff000u) return static_cast<uint16_t>(sign_bit | 0x7c00u);
  if (word < 0x38800000u) {  // subnormal: adding 1/2 leaves the value, rounded to 2^-24, in the low bits
    float shifted;
    memcpy(&shifted, &word, 4);
    shifted += 0.5f;
    memcpy(&word, &shifted, 4);
    return static_cast<uint16_t>(sign_bit | (word - 0x3f000000u));
  }
  word += 0xfffu + ((word >> 13) & 1u);
  return static_cast<uint16_t>(sign_bit | ((word - 0x38000000u) >> 13));
}
KEYGRAPH_INLINE F load_half(const uint16_t* p) {
  return F{half_to_float(p[0]), half_to_float(p[1]), half_to_float(p[2]), half_to_float(p[3])};
}
KEYGRAPH_INLINE void store_half(uint16_t* p, F a) {
  for (int lane = 0; lane < W; ++lane) p[lane] = float_to_half(a[lane]);
}
// One bit for each of 32 elements, set where it is not zero; of halves the sign is ignored.
KEYGRAPH_INLINE uint32_t nonzero_bytes(const uint8_t* p) {
  uint32_t word = 0;
  KEYGRAPH_UNROLL
  for (int i = 0; i < 4; ++i) {
    uint64_t x;
    memcpy(&x, p + 8 * i, 8);
    x = ((((x & 0x7f7f7f7f7f7f7f7fu) + 0x7f7f7f7f7f7f7f7fu) | x) >> 7) & 0x0101010101010101u;
    word |= static_cast<uint32_t>(x * 0x0102040810204080u >> 56) << 8 * i;  // the bytes' lowest bits, side by side
  }
  return word;
}
KEYGRAPH_INLINE uint32_t nonzero_halves(const uint16_t* p) {
  uint32_t word = 0;
  for (int i = 0; i < 32; ++i) word |= static_cast<uint32_t>((p[i] & 0x7fffu) != 0) << i;
  return word;
}
// The nodes of one graph word, appended to a list that has room for 32 more than it will use.
KEYGRAPH_INLINE uint16_t* append_nodes(uint16_t* list, uint32_t word, int first) {
  for (; word; word &= word - 1) *list++ = static_cast<uint16_t>(first + __builtin_ctz(word));
  return list;
}

// One step of combining over lanes: in each block of 2 * distance lanes, the first half is a's two halves combined, the
// second half b's.
template <class Op, int distance>
KEYGRAPH_INLINE F fold(F a, F b) {
  if constexpr (distance == 2)
    return Op::of(F{a[0], a[1], b[2], b[3]}, F{a[2], a[3], b[0], b[1]});
  else
    return Op::of(F{a[0], b[0], a[2], b[2]}, F{a[1], b[1], a[3], b[3]});
}

// The n floats at p, again and again.
template <int n>
KEYGRAPH_INLINE F repeat(const float* p) {
  if constexpr (n == 1)
    return set1(*p);
  else if constexpr (n == 2)
    return F{p[0], p[1], p[0], p[1]};
  else
    return load(p);
}
