// Lanes: one vector register holds the same number of LANES different networks.
//
// GCC and Clang vector extensions, so one source serves AVX-512, AVX2, SSE2 and Arm. Nothing here ever mixes lanes:
// a network's arithmetic is the same whatever its neighbours are.
#pragma once

#include <cstdint>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float V __attribute__((vector_size(4 * LANES)));        // one float a network
typedef int32_t I __attribute__((vector_size(4 * LANES)));      // one integer, or comparison mask, a network
typedef uint8_t Byte __attribute__((vector_size(LANES)));       // a small index a network

#define INLINE inline __attribute__((always_inline))

INLINE V splat(float value) { return V{} + value; }
INLINE V select(I mask, V yes, V no) { return mask ? yes : no; }
INLINE V absolute(V x) { return (V)((I)x & 0x7fffffff); }
INLINE V copy_sign(V magnitude, V sign) { return (V)((I)magnitude | ((I)sign & (int32_t)0x80000000)); }

// 1/x to about one unit in the last place. The hardware estimate and one Newton step take a third of a division.
INLINE V reciprocal(V x) {
#ifdef __AVX512F__
  V estimate = (V)_mm512_rcp14_ps((__m512)x);
  return estimate + estimate * (1.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

INLINE V square_root(V x) {
#ifdef __AVX512F__
  return (V)_mm512_sqrt_ps((__m512)x);
#else
  V root;
  for (int lane = 0; lane < LANES; lane++) root[lane] = __builtin_sqrtf(x[lane]);
  return root;
#endif
}

// exp(x), about one unit in the last place; x is clamped to [-87, 88], where the result is a normal number.
INLINE V exponential(V x) {
  x = select(x > 88.0f, splat(88.0f), x);
  x = select(x < -87.0f, splat(-87.0f), x);
  const float round = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer
  V n = (x * 1.44269504088896341f + round) - round;
  V r = x - n * 0.693359375f;  // ln 2 in two parts, so that x - n ln 2 is exact
  r = r + n * 2.12194440e-4f;
  V p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  I exponent = (__builtin_convertvector(n, I) + 127) << 23;
  return p * (V)exponent;  // a product, so that NaN stays NaN
}

// tanh(x) to about two units in the last place, deep into saturation: networks that start from U(0, 1) live there,
// and learn through what is left of 1 - tanh^2.
INLINE V hyperbolic_tangent(V x) {
  V a = absolute(x);
  V z = x * x;
  V p = splat(-5.70498872745e-3f);  // odd polynomial for |x| < 0.625
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  V small = p * z * x + x;
  V large = 1.0f - 2.0f * reciprocal(exponential(2.0f * select(a > 44.0f, splat(44.0f), a)) + 1.0f);
  return select(a < 0.625f, small, copy_sign(large, x));
}

// erf(x), for the exact GELU.
INLINE V error_function(V x) {
  V z = x * x;
  V t = splat(7.853861353153693e-5f);  // |x| < 1
  t = t * z - 8.010193625184903e-4f;
  t = t * z + 5.188327685732524e-3f;
  t = t * z - 2.685381193529856e-2f;
  t = t * z + 1.128358514861418e-1f;
  t = t * z - 3.761262582423300e-1f;
  t = t * z + 1.128379165726710f;
  V small = x * t;

  V a = absolute(x);
  V q = 1.0f / select(a < 1.0f, splat(1.0f), a);
  V y = q * q;
  V near = splat(2.326819970068386e-2f);  // erfc for 1 <= |x| < 2
  near = near * y - 1.387039388740657e-1f;
  near = near * y + 3.687424674597105e-1f;
  near = near * y - 5.824733027278666e-1f;
  near = near * y + 6.210004621745983e-1f;
  near = near * y - 4.944515323274145e-1f;
  near = near * y + 3.404879937665872e-1f;
  near = near * y - 2.741127028184656e-1f;
  near = near * y + 5.638259427386472e-1f;
  V far = splat(-1.047766399936249e+1f);  // erfc for |x| >= 2
  far = far * y + 1.297719955372516e+1f;
  far = far * y - 7.495518717768503f;
  far = far * y + 2.921019019210786f;
  far = far * y - 1.015265279202700f;
  far = far * y + 4.218463358204948e-1f;
  far = far * y - 2.820767439740514e-1f;
  far = far * y + 5.641895067754075e-1f;
  V large = 1.0f - exponential(-z) * q * select(a < 2.0f, near, far);
  return select(a < 1.0f, small, copy_sign(large, x));
}
