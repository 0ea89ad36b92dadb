// SPDX-License-Identifier: Apache-2.0
//
// Vectors of 16 lanes: AVX-512 F, BW, DQ, VL with F16C. See vector_generic.h for what each function means.
constexpr int W = 16;      // lanes
constexpr int kTile = 12;  // tile of the product: kTile x 2 accumulators, out of 32 registers
constexpr int kDensePercent = 52;
using F = __m512;
using I = __m512i;
using M = __mmask16;

KEYGRAPH_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
KEYGRAPH_INLINE void store(float* p, F a) { _mm512_storeu_ps(p, a); }
KEYGRAPH_INLINE F load_some(const float* p, int n) { return _mm512_maskz_loadu_ps(static_cast<M>((1u << n) - 1), p); }
KEYGRAPH_INLINE void store_some(float* p, F a, int n) { _mm512_mask_storeu_ps(p, static_cast<M>((1u << n) - 1), a); }
KEYGRAPH_INLINE F set1(float a) { return _mm512_set1_ps(a); }
KEYGRAPH_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
KEYGRAPH_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
KEYGRAPH_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
KEYGRAPH_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
KEYGRAPH_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
KEYGRAPH_INLINE F max_or_second(F a, F b) { return _mm512_max_ps(a, b); }
KEYGRAPH_INLINE I iload(const int32_t* p) { return _mm512_loadu_si512(p); }
KEYGRAPH_INLINE void istore(int32_t* p, I a) { _mm512_storeu_si512(p, a); }
KEYGRAPH_INLINE I iset1(int32_t a) { return _mm512_set1_epi32(a); }
KEYGRAPH_INLINE I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
KEYGRAPH_INLINE I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
KEYGRAPH_INLINE I iand(I a, I b) { return _mm512_and_si512(a, b); }
KEYGRAPH_INLINE I ixor(I a, I b) { return _mm512_xor_si512(a, b); }
KEYGRAPH_INLINE I imax(I a, I b) { return _mm512_max_epi32(a, b); }
KEYGRAPH_INLINE I imin(I a, I b) { return _mm512_min_epi32(a, b); }
template <int n>
KEYGRAPH_INLINE I shl(I a) {
  return _mm512_slli_epi32(a, n);
}
template <int n>
KEYGRAPH_INLINE I shr(I a) {
  return _mm512_srli_epi32(a, n);
}
KEYGRAPH_INLINE I sign(I a) { return _mm512_srai_epi32(a, 31); }
KEYGRAPH_INLINE I bits(F a) { return _mm512_castps_si512(a); }
KEYGRAPH_INLINE F from_bits(I a) { return _mm512_castsi512_ps(a); }
KEYGRAPH_INLINE F to_float(I a) { return _mm512_cvtepi32_ps(a); }

KEYGRAPH_INLINE M igt(I a, I b) { return _mm512_cmpgt_epi32_mask(a, b); }
KEYGRAPH_INLINE M ige(I a, I b) { return _mm512_cmpge_epi32_mask(a, b); }
KEYGRAPH_INLINE M ieq(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
KEYGRAPH_INLINE M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
KEYGRAPH_INLINE M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
KEYGRAPH_INLINE M ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
KEYGRAPH_INLINE M both(M a, M b) { return a & b; }
KEYGRAPH_INLINE M either(M a, M b) { return a | b; }
KEYGRAPH_INLINE bool any(M a) { return a != 0; }
KEYGRAPH_INLINE bool all(M a) { return a == 0xffff; }
KEYGRAPH_INLINE M lanes(uint32_t low_bits) { return static_cast<M>(low_bits); }
KEYGRAPH_INLINE uint32_t lane_bits(M a) { return a; }
KEYGRAPH_INLINE F choose(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
KEYGRAPH_INLINE I ichoose(M m, I yes, I no) { return _mm512_mask_blend_epi32(m, no, yes); }
KEYGRAPH_INLINE F zero_where(M m, F a) { return _mm512_mask_mov_ps(a, m, _mm512_setzero_ps()); }
KEYGRAPH_INLINE I count_if(I count, M m) { return _mm512_mask_sub_epi32(count, m, count, _mm512_set1_epi32(-1)); }
KEYGRAPH_INLINE I or_if(I a, M m, I b) { return _mm512_mask_or_epi32(a, m, a, b); }

KEYGRAPH_INLINE F zip_low(F a, F b) {
  const I index = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(a, index, b);
}
KEYGRAPH_INLINE F zip_high(F a, F b) {
  const I index = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return _mm512_permutex2var_ps(a, index, b);
}

KEYGRAPH_INLINE F load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
KEYGRAPH_INLINE void store_half(uint16_t* p, F a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
KEYGRAPH_INLINE uint32_t nonzero_bytes(const uint8_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_test_epi8_mask(x, x);
}
KEYGRAPH_INLINE uint32_t nonzero_halves(const uint16_t* p) {
  return _mm512_test_epi16_mask(_mm512_loadu_si512(p), _mm512_set1_epi16(0x7fff));
}
// Appends the nodes of one graph word to a list, whose buffer has room for 32 more than it will use.
KEYGRAPH_INLINE uint16_t* append_nodes(uint16_t* list, uint32_t word, int first) {
  const I low = _mm512_add_epi32(_mm512_set1_epi32(first),
                                 _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  const I high = _mm512_add_epi32(low, _mm512_set1_epi32(16));
  const M m0 = static_cast<M>(word), m1 = static_cast<M>(word >> 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(list), _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(m0, low)));
  list += __builtin_popcount(m0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(list), _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(m1, high)));
  return list + __builtin_popcount(m1);
}

// 2^x in fewer steps than the generic code: x = floor(x) + r, and scaling by 2^floor(x) is one instruction that also
// rounds down to 0. The polynomial is for r in [0, 1); relative error at most 1.8e-7 (1.5 ulp), NaN for NaN.
#define KEYGRAPH_HAS_EXP2
KEYGRAPH_INLINE F exp2_negative(F x) {
  const F r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  F p = set1(0x1.ec320ap-10f);
  p = fma(p, r, set1(0x1.26900ep-7f));
  p = fma(p, r, set1(0x1.c95446p-5f));
  p = fma(p, r, set1(0x1.ebd5a8p-3f));
  p = fma(p, r, set1(0x1.62e4f6p-1f));
  p = fma(p, r, set1(0x1.fffffep-1f));
  return _mm512_scalef_ps(p, x);
}

// Blends run on two ports and shuffles on one, so a blend replaces one of two shuffles where it can.
template <class Op, int distance>
KEYGRAPH_INLINE F fold(F a, F b) {
  if constexpr (distance == 8) {
    return Op::of(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
  } else if constexpr (distance == 4) {
    const I index = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
    return Op::of(_mm512_mask_blend_ps(0xf0f0, a, b), _mm512_permutex2var_ps(a, index, b));
  } else if constexpr (distance == 2) {
    return Op::of(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
  } else {
    const I index = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
    return Op::of(_mm512_mask_blend_ps(0xaaaa, a, b), _mm512_permutex2var_ps(a, index, b));
  }
}

template <int n>
KEYGRAPH_INLINE F repeat(const float* p) {
  if constexpr (n == 1) {
    return _mm512_set1_ps(*p);
  } else if constexpr (n == 2) {
    double two;
    memcpy(&two, p, 8);
    return _mm512_castpd_ps(_mm512_set1_pd(two));
  } else if constexpr (n == 4) {
    return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
  } else if constexpr (n == 8) {
    return _mm512_broadcast_f32x8(_mm256_loadu_ps(p));
  } else {
    return load(p);
  }
}
