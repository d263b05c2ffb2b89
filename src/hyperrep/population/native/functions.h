// Elementary functions, accurate to one or two units in the last place, and the activations made of them.
#pragma once

#include "vector.h"

// 2^n e^r = e^x with a whole n and |r| <= ln(2)/2. Adding and subtracting 1.5 * 2^23 rounds to the nearest integer,
// and leaves n in the low bits of the sum.
constexpr float LOG2_E = 1.44269504088896341f, ROUND = 12582912.0f;
constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;  // ln 2 in two parts: n * LN2_HIGH is exact

INLINE V reduced(V x, V n) { return (x - n * LN2_HIGH) - n * LN2_LOW; }

// e^r - 1 for |r| <= ln(2)/2: minimax, relative error 1.3e-8.
INLINE V small_exponential_minus_one(V r) {
  V p = splat(1.3882516535e-3f);
  p = p * r + 8.3665472175e-3f;
  p = p * r + 4.1667200714e-2f;
  p = p * r + 1.6666543424e-1f;
  p = p * r + 4.9999998150e-1f;
  return (r * r) * p + r;
}

// e^x; x is clamped to [-87, 88], where the result is a normal number.
INLINE V exponential(V x) {
  x = -at_most(87.0f, -at_most(88.0f, x));
  V n = (x * LOG2_E + ROUND) - ROUND;
  V p = small_exponential_minus_one(reduced(x, n)) + 1.0f;
  I power = (__builtin_convertvector(n, I) + 127) << 23;
  return p * (V)power;  // a product, so that NaN stays NaN
}

// tanh(x), accurate deep into saturation: networks that start from U(0, 1) live there, and learn through what is left
// of 1 - tanh^2.
INLINE V hyperbolic_tangent(V x) {
  V a = at_most(15.0f, absolute(x));  // tanh is 1 from 9.02 on
  V rounded = a * (2.0f * LOG2_E) + ROUND;
  V power = (V)(((I)rounded << 23) + 0x3f800000);
  V e = small_exponential_minus_one(reduced(a + a, rounded - ROUND));
  e = power * e + (power - 1.0f);  // e^2a - 1 without cancellation
  V divisor = e + 2.0f, inverse = reciprocal(divisor);
  V small = e * inverse;  // keeps the digits of a small x
  small = small + inverse * (e - small * divisor);
  V large = 1.0f - 2.0f * inverse;  // keeps the digits of 1 - tanh
  return copy_sign(select(e < 2.0f, small, large), x);
}

// erf(x), given exp(-x^2).
INLINE V error_function(V x, V gaussian) {
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
  V large = 1.0f - gaussian * q * select(a < 2.0f, near, far);
  return select(a < 1.0f, small, copy_sign(large, x));
}

// ---------------------------------------------------------------------------------------------------- activations

enum Activation { TANH = 0, RELU = 1, GELU = 2, SIGMOID = 3 };

INLINE V sigmoid(V x) {
  V e = exponential(-absolute(x));
  V larger = reciprocal(1.0f + e);
  return select(x < 0.0f, e * larger, larger);
}

INLINE V gelu(V x, V& slope) {
  V gaussian = exponential(-0.5f * x * x);
  V cdf = 0.5f * (1.0f + error_function(x * 0.70710678118654752f, gaussian));
  slope = cdf + x * (0.39894228040143268f * gaussian);
  return x * cdf;
}

// Apply the activation in place. `slopes` is written for GELU alone: the others' slope follows from the value.
inline void activate(int activation, int count, V* values, V* slopes) {
  switch (activation) {
    case TANH: for (int i = 0; i < count; i++) values[i] = hyperbolic_tangent(values[i]); break;
    // a comparison with NaN is false: NaN passes through
    case RELU: for (int i = 0; i < count; i++) values[i] = select(values[i] < 0.0f, V{}, values[i]); break;
    case GELU: for (int i = 0; i < count; i++) values[i] = gelu(values[i], slopes[i]); break;
    case SIGMOID: for (int i = 0; i < count; i++) values[i] = sigmoid(values[i]); break;
  }
}

// From the gradient after the activation to the gradient before it, in place.
inline void activate_backward(int activation, int count, const V* values, const V* slopes, V* gradient) {
  switch (activation) {
    case TANH: for (int i = 0; i < count; i++) gradient[i] *= 1.0f - values[i] * values[i]; break;
    case RELU: for (int i = 0; i < count; i++) gradient[i] = select(values[i] <= 0.0f, V{}, gradient[i]); break;
    case GELU: for (int i = 0; i < count; i++) gradient[i] *= slopes[i]; break;
    case SIGMOID: for (int i = 0; i < count; i++) gradient[i] *= values[i] * (1.0f - values[i]); break;
  }
}
