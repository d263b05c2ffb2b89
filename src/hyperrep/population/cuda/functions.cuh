// Dropout, and activations with their slopes, one number at a time.

// C. Wellons' lowbias32, as in population/dropout.py.
DEVICE Bits scramble(Bits x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

struct Dropout {
  bool used;
  Bits key, threshold;  // a unit whose 32 random bits lie below the threshold is dropped
  float scale;          // 1 / (1 - rate)

  DEVICE float factor(int position, int unit) const {
    const Bits image = scramble(key ^ scramble((Bits)position));
    return scramble(image + (Bits)unit * 0x9e3779b9u) >= threshold ? scale : 0.0f;
  }
};

DEVICE float activate(float x, float& slope) {
  if constexpr (ACTIVATION == 0) return tanhf(x);
  if constexpr (ACTIVATION == 1) return x < 0.0f ? 0.0f : x;  // NaN passes through
  if constexpr (ACTIVATION == 2) {
    const float cdf = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    slope = cdf + x * (0.39894228040143268f * expf(-0.5f * x * x));
    return x * cdf;
  }
  const float e = expf(-fabsf(x)), most = 1.0f / (1.0f + e);
  return x < 0.0f ? e * most : most;
}

// The slope where the activation has this value.
DEVICE float slope_at(float value) {
  if constexpr (ACTIVATION == 0) return 1.0f - value * value;
  if constexpr (ACTIVATION == 1) return value <= 0.0f ? 0.0f : 1.0f;
  return value * (1.0f - value);
}

// What is stored of a hidden unit `i` of `layer`, from the sum that arrives there.
template <int LAYER>
DEVICE void finish(float* shared, const Dropout& dropout, int position, int i, float sum) {
  float slope = 0.0f, out = activate(sum, slope);
  if (dropout.used) {
    const float factor = dropout.factor(position + i / count(LAYER), first_unit(LAYER) + i % count(LAYER));
    out *= factor;
    slope *= factor;
  }
  shared[value(LAYER) + i] = out;
  if constexpr (ACTIVATION == 2) shared[::slope(LAYER) + i] = slope;
}

// The way back: from the gradient of what was stored to that of the sum, which takes its place.
template <int LAYER>
DEVICE void undo(float* shared, const Dropout& dropout, int position, int i, float gradient) {
  float& place = shared[value(LAYER) + i];
  if constexpr (ACTIVATION == 2) {
    place = gradient * shared[slope(LAYER) + i];
    return;
  }
  float factor = 1.0f;
  if (dropout.used) factor = dropout.factor(position + i / count(LAYER), first_unit(LAYER) + i % count(LAYER));
  place = factor == 0.0f ? 0.0f : gradient * factor * slope_at(dropout.used ? place / factor : place);
}
