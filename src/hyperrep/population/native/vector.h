// Lanes: one vector register holds the same number of LANES different networks.
//
// GCC and Clang vector extensions, so one source serves AVX-512, AVX2, SSE2 and Arm; intrinsics only where a compiler
// misses an instruction that matters. Nothing here ever mixes lanes, except on the way from rows and back: a network's
// arithmetic is the same whatever its neighbours are.
#pragma once

#include <cstdint>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define HYPERREP_AVX512
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float V __attribute__((vector_size(4 * LANES)));    // one float a network
typedef int32_t I __attribute__((vector_size(4 * LANES)));  // one integer, or the result of a comparison, a network
typedef uint8_t Byte __attribute__((vector_size(LANES)));   // a small index a network

#define INLINE inline __attribute__((always_inline))

INLINE V splat(float value) { return V{} + value; }
INLINE V select(I mask, V yes, V no) { return mask ? yes : no; }
INLINE V absolute(V x) { return (V)((I)x & 0x7fffffff); }
INLINE V copy_sign(V magnitude, V sign) { return (V)((I)magnitude | ((I)sign & (int32_t)0x80000000)); }

// The smaller of limit and x; NaN stays NaN.
INLINE V at_most(float limit, V x) {
#ifdef HYPERREP_AVX512
  return (V)_mm512_min_ps((__m512)splat(limit), (__m512)x);
#else
  return select(x > limit, splat(limit), x);
#endif
}

INLINE V square_root(V x) {
#ifdef HYPERREP_AVX512
  return (V)_mm512_sqrt_ps((__m512)x);
#else
  V root;
  for (int lane = 0; lane < LANES; lane++) root[lane] = __builtin_sqrtf(x[lane]);
  return root;
#endif
}

// 1/x to about one unit in the last place, for x neither zero nor infinite. The hardware's estimate and one Newton
// step take a third of a division.
INLINE V reciprocal(V x) {
#ifdef HYPERREP_AVX512
  V estimate = (V)_mm512_rcp14_ps((__m512)x);
  return estimate + estimate * (1.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

// A comparison whose result many selections share. AVX-512 keeps it in a mask register of its own.
#ifdef HYPERREP_AVX512
typedef __mmask16 Mask;
INLINE V choose(Mask mask, V yes, V no) { return (V)_mm512_mask_blend_ps(mask, (__m512)no, (__m512)yes); }
INLINE I choose(Mask mask, I yes, I no) { return (I)_mm512_mask_blend_epi32(mask, (__m512i)no, (__m512i)yes); }
INLINE Mask is_larger(V a, V b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
INLINE Mask is_nan(V x) { return _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q); }
INLINE Mask has_bit(Byte x, uint8_t bit) { return _mm_test_epi8_mask((__m128i)x, _mm_set1_epi8((char)bit)); }
#else
typedef I Mask;
INLINE V choose(Mask mask, V yes, V no) { return mask ? yes : no; }
INLINE I choose(Mask mask, I yes, I no) { return mask ? yes : no; }
INLINE Mask is_larger(V a, V b) { return a > b; }
INLINE Mask is_nan(V x) { return x != x; }
INLINE Mask has_bit(Byte x, uint8_t bit) { return (__builtin_convertvector(x, I) & (int32_t)bit) != 0; }
#endif

// Between a small integer and the byte it is stored in.
#ifdef HYPERREP_AVX512
INLINE I widen(Byte x) { return (I)_mm512_cvtepu8_epi32((__m128i)x); }
INLINE Byte narrow(I x) { return (Byte)_mm512_cvtepi32_epi8((__m512i)x); }
#else
INLINE I widen(Byte x) { return __builtin_convertvector(x, I); }
INLINE Byte narrow(I x) { return __builtin_convertvector(x, Byte); }
#endif

// While it lives, numbers below 1e-38 count as zero on x86. Saturated networks have such gradients and moments in
// plenty; the processor takes a hundred times longer over them, and no weight can tell the difference.
class NoDenormals {
#if defined(__x86_64__)
 public:
  NoDenormals() { _mm_setcsr(before | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before); }

 private:
  const unsigned before = _mm_getcsr();
#else
 public:
  NoDenormals() {}
#endif
};

// --------------------------------------------------------------------------------------------- rows to lanes and back

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (I){__VA_ARGS__})
#endif

// The lower halves of a and b like the two sides of a zip, and the upper halves.
INLINE void zip(V a, V b, V& lower, V& upper) {
#if defined(HYPERREP_AVX512)
  lower = SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  upper = SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX__)
  lower = SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  upper = SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  lower = SHUFFLE(a, b, 0, 4, 1, 5);
  upper = SHUFFLE(a, b, 2, 6, 3, 7);
#endif
}

INLINE V load(const float* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof(V));
  return value;
}

INLINE void store(V value, float* to) { __builtin_memcpy(to, &value, sizeof(V)); }

// Turn rows into columns: log2(LANES) perfect shuffles.
INLINE void transpose(V (&block)[LANES]) {
  V zipped[LANES];
#pragma GCC unroll 4
  for (int half = 1; half < LANES; half *= 2) {
#pragma GCC unroll 8
    for (int k = 0; k < LANES / 2; k++) zip(block[k], block[k + LANES / 2], zipped[2 * k], zipped[2 * k + 1]);
#pragma GCC unroll 16
    for (int k = 0; k < LANES; k++) block[k] = zipped[k];
  }
}

// Each row's numbers into the lane of its number: to[i][lane] = rows[lane][i].
inline void interleave(const float* const* rows, int count, V* to) {
  int i = 0;
  for (; i + LANES <= count; i += LANES) {
    V block[LANES];
    for (int lane = 0; lane < LANES; lane++) block[lane] = load(rows[lane] + i);
    transpose(block);
    for (int k = 0; k < LANES; k++) to[i + k] = block[k];
  }
  for (; i < count; i++)
    for (int lane = 0; lane < LANES; lane++) to[i][lane] = rows[lane][i];
}

// The way back, of the first `lanes` lanes.
inline void separate(const V* from, int count, int lanes, float* const* rows) {
  int i = 0;
  for (; i + LANES <= count; i += LANES) {
    V block[LANES];
    for (int k = 0; k < LANES; k++) block[k] = from[i + k];
    transpose(block);
    for (int lane = 0; lane < lanes; lane++) store(block[lane], rows[lane] + i);
  }
  for (; i < count; i++)
    for (int lane = 0; lane < lanes; lane++) rows[lane][i] = from[i][lane];
}
