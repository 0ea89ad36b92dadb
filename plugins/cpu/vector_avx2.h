// SPDX-License-Identifier: Apache-2.0
//
// Vectors of 8 lanes: AVX2, FMA, F16C. See vector_generic.h for what each function means.
constexpr int W = 8;
constexpr int kTile = 6;  // 12 accumulators out of 16 registers
constexpr int kDensePercent = 60;
using F = __m256;
using I = __m256i;
using M = __m256i;  // all bits of a lane

KEYGRAPH_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
KEYGRAPH_INLINE void store(float* p, F a) { _mm256_storeu_ps(p, a); }
KEYGRAPH_INLINE I first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
KEYGRAPH_INLINE F load_some(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
KEYGRAPH_INLINE void store_some(float* p, F a, int n) { _mm256_maskstore_ps(p, first_lanes(n), a); }
KEYGRAPH_INLINE F set1(float a) { return _mm256_set1_ps(a); }
KEYGRAPH_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
KEYGRAPH_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
KEYGRAPH_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
KEYGRAPH_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
KEYGRAPH_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
KEYGRAPH_INLINE F max_or_second(F a, F b) { return _mm256_max_ps(a, b); }
KEYGRAPH_INLINE I iload(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
KEYGRAPH_INLINE void istore(int32_t* p, I a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
KEYGRAPH_INLINE I iset1(int32_t a) { return _mm256_set1_epi32(a); }
KEYGRAPH_INLINE I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
KEYGRAPH_INLINE I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
KEYGRAPH_INLINE I iand(I a, I b) { return _mm256_and_si256(a, b); }
KEYGRAPH_INLINE I ixor(I a, I b) { return _mm256_xor_si256(a, b); }
KEYGRAPH_INLINE I imax(I a, I b) { return _mm256_max_epi32(a, b); }
KEYGRAPH_INLINE I imin(I a, I b) { return _mm256_min_epi32(a, b); }
template <int n>
KEYGRAPH_INLINE I shl(I a) {
  return _mm256_slli_epi32(a, n);
}
template <int n>
KEYGRAPH_INLINE I shr(I a) {
  return _mm256_srli_epi32(a, n);
}
KEYGRAPH_INLINE I sign(I a) { return _mm256_srai_epi32(a, 31); }
KEYGRAPH_INLINE I bits(F a) { return _mm256_castps_si256(a); }
KEYGRAPH_INLINE F from_bits(I a) { return _mm256_castsi256_ps(a); }
KEYGRAPH_INLINE F to_float(I a) { return _mm256_cvtepi32_ps(a); }

KEYGRAPH_INLINE M igt(I a, I b) { return _mm256_cmpgt_epi32(a, b); }
KEYGRAPH_INLINE M ige(I a, I b) { return _mm256_xor_si256(_mm256_cmpgt_epi32(b, a), _mm256_set1_epi32(-1)); }
KEYGRAPH_INLINE M ieq(I a, I b) { return _mm256_cmpeq_epi32(a, b); }
KEYGRAPH_INLINE M is_nan(F a) { return _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
KEYGRAPH_INLINE M less(F a, F b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
KEYGRAPH_INLINE M ge(F a, F b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
KEYGRAPH_INLINE M both(M a, M b) { return _mm256_and_si256(a, b); }
KEYGRAPH_INLINE M either(M a, M b) { return _mm256_or_si256(a, b); }
KEYGRAPH_INLINE bool any(M a) { return _mm256_movemask_ps(_mm256_castsi256_ps(a)) != 0; }
KEYGRAPH_INLINE bool all(M a) { return _mm256_movemask_ps(_mm256_castsi256_ps(a)) == 0xff; }
KEYGRAPH_INLINE M lanes(uint32_t low_bits) {
  const I lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(low_bits)), lane), lane);
}
KEYGRAPH_INLINE uint32_t lane_bits(M a) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(a)));
}
KEYGRAPH_INLINE F choose(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m)); }
KEYGRAPH_INLINE I ichoose(M m, I yes, I no) { return _mm256_blendv_epi8(no, yes, m); }
KEYGRAPH_INLINE F zero_where(M m, F a) { return _mm256_andnot_ps(_mm256_castsi256_ps(m), a); }
KEYGRAPH_INLINE I count_if(I count, M m) { return _mm256_sub_epi32(count, m); }
KEYGRAPH_INLINE I or_if(I a, M m, I b) { return _mm256_or_si256(a, _mm256_and_si256(m, b)); }

KEYGRAPH_INLINE F zip_low(F a, F b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
KEYGRAPH_INLINE F zip_high(F a, F b) {
  return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}

KEYGRAPH_INLINE F load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
KEYGRAPH_INLINE void store_half(uint16_t* p, F a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
KEYGRAPH_INLINE uint32_t nonzero_bytes(const uint8_t* p) {
  const I zero = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const I*>(p)), _mm256_setzero_si256());
  return ~static_cast<uint32_t>(_mm256_movemask_epi8(zero));
}
KEYGRAPH_INLINE uint32_t nonzero_halves(const uint16_t* p) {
  const I magnitude = _mm256_set1_epi16(0x7fff);
  const I low = _mm256_and_si256(magnitude, _mm256_loadu_si256(reinterpret_cast<const I*>(p)));
  const I high = _mm256_and_si256(magnitude, _mm256_loadu_si256(reinterpret_cast<const I*>(p + 16)));
  const I zero = _mm256_setzero_si256();
  // Packs within 128 bits, so the middle quarters change places.
  const I packed = _mm256_packs_epi16(_mm256_cmpeq_epi16(low, zero), _mm256_cmpeq_epi16(high, zero));
  return ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(packed, 0xd8)));
}
KEYGRAPH_INLINE uint16_t* append_nodes(uint16_t* list, uint32_t word, int first) {
  for (; word; word &= word - 1) *list++ = static_cast<uint16_t>(first + __builtin_ctz(word));
  return list;
}

// A blend runs on any port and a shuffle on one, so a blend replaces one of two shuffles where it can.
template <class Op, int distance>
KEYGRAPH_INLINE F fold(F a, F b) {
  if constexpr (distance == 4)
    return Op::of(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
  else if constexpr (distance == 2)
    return Op::of(_mm256_blend_ps(a, b, 0xcc), _mm256_shuffle_ps(a, b, 0x4e));
  else
    return _mm256_permute_ps(Op::of(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)), 0xd8);
}

template <int n>
KEYGRAPH_INLINE F repeat(const float* p) {
  if constexpr (n == 1) {
    return _mm256_broadcast_ss(p);
  } else if constexpr (n == 2) {
    double two;
    memcpy(&two, p, 8);
    return _mm256_castpd_ps(_mm256_set1_pd(two));
  } else if constexpr (n == 4) {
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
  } else {
    return load(p);
  }
}
