// From images to logits.

// Keep the larger of two values and its place in the window. The first of equals wins, and NaN over all, as in PyTorch.
DEVICE void keep_larger(float value, int place, float& best, int& which) {
  if ((value > best || value != value) && best == best) {
    best = value;
    which = place;
  }
}

// A convolution's channels that one item computes.
CONSTANT int block(int channels) { return channels % 4 == 0 ? 4 : channels % 3 == 0 ? 3 : channels % 2 == 0 ? 2 : 1; }

// `WIDE` x `WIDE` neighbouring sums of BLOCK channels: every input that is loaded serves all of them.
template <int LAYER, int BLOCK, int WIDE>
DEVICE void correlate(const float* corner, const float* weight, const float* bias, float (&sum)[BLOCK][WIDE * WIDE]) {
  constexpr Convolution c = convolution(LAYER);
  constexpr int K = c.kernel, SIDE = K + WIDE - 1, TAPS = K * K;
#pragma unroll
  for (int o = 0; o < BLOCK; o++)
#pragma unroll
    for (int k = 0; k < WIDE * WIDE; k++) sum[o][k] = bias[o];
#pragma unroll 1
  for (int i = 0; i < c.inputs; i++) {
    float window[SIDE][SIDE];
#pragma unroll
    for (int y = 0; y < SIDE; y++)
#pragma unroll
      for (int x = 0; x < SIDE; x++) window[y][x] = corner[(i * c.size + y) * c.size + x];
#pragma unroll
    for (int o = 0; o < BLOCK; o++)
#pragma unroll
      for (int t = 0; t < TAPS; t++) {
        const float tap = weight[(o * c.inputs + i) * TAPS + t];
#pragma unroll
        for (int k = 0; k < WIDE * WIDE; k++) sum[o][k] += tap * window[t / K + k / WIDE][t % K + k % WIDE];
      }
  }
}

template <int LAYER>
DEVICE void convolve(float* shared, const Dropout& dropout, int position, int images) {
  constexpr Convolution c = convolution(LAYER);
  constexpr int BLOCK = block(c.outputs), GROUPS = c.outputs / BLOCK, PLACES = c.places(), POOLED = c.pooled();
  constexpr int PER_CHANNEL = c.inputs * c.kernel * c.kernel;
  const float *in = shared + value(LAYER), *weight = shared + WEIGHTS + first_parameter(LAYER);
  EACH(item, images * GROUPS * PLACES) {
    const int place = item % PLACES, group = item / PLACES % GROUPS, n = item / (PLACES * GROUPS);
    const float* w = weight + group * BLOCK * PER_CHANNEL;
    const float* bias = weight + c.weights() + group * BLOCK;
    const float* corner =
        in + n * count(LAYER) + place / POOLED * c.pool * c.size + place % POOLED * c.pool;
    float best[BLOCK];
    int which[BLOCK];
    if constexpr (c.pool == 2) {
      float sum[BLOCK][4];
      correlate<LAYER, BLOCK, 2>(corner, w, bias, sum);
#pragma unroll
      for (int o = 0; o < BLOCK; o++) {
        best[o] = sum[o][0], which[o] = 0;
#pragma unroll
        for (int k = 1; k < 4; k++) keep_larger(sum[o][k], k, best[o], which[o]);
      }
    } else {
      for (int k = 0; k < c.pool * c.pool; k++) {
        float sum[BLOCK][1];
        correlate<LAYER, BLOCK, 1>(corner + k / c.pool * c.size + k % c.pool, w, bias, sum);
#pragma unroll
        for (int o = 0; o < BLOCK; o++) {
          if (k == 0) best[o] = sum[o][0], which[o] = 0;
          keep_larger(sum[o][0], k, best[o], which[o]);
        }
      }
    }
#pragma unroll
    for (int o = 0; o < BLOCK; o++) {
      const int i = n * count(LAYER + 1) + (group * BLOCK + o) * PLACES + place;
      finish<LAYER + 1>(shared, dropout, position, i, best[o]);
      if constexpr (c.pool > 1) ((Byte*)shared)[winner(LAYER) + i] = (Byte)which[o];
    }
  }
}

template <int LAYER>
DEVICE void multiply(float* shared, const Dropout& dropout, int position, int images) {
  constexpr Linear l = linear(LAYER);
  const float *in = shared + value(LAYER), *weight = shared + WEIGHTS + first_parameter(LAYER);
  EACH(item, images * l.outputs) {
    const float *x = in + item / l.outputs * l.inputs, *w = weight + item % l.outputs * l.inputs;
    float sum = weight[weights(LAYER) + item % l.outputs];
    for (int i = 0; i < l.inputs; i++) sum += w[i] * x[i];
    if constexpr (LAYER + 1 == LAYERS)
      shared[value(LAYERS) + item] = sum;
    else
      finish<LAYER + 1>(shared, dropout, position, item, sum);
  }
}

// From the images to their logits; `position` of the first in the epoch decides what dropout drops.
template <int LAYER = 0>
DEVICE void forward(float* shared, const Dropout& dropout, int position, int images) {
  if constexpr (LAYER < CONVOLUTIONS)
    convolve<LAYER>(shared, dropout, position, images);
  else
    multiply<LAYER>(shared, dropout, position, images);
  SYNC();
  if constexpr (LAYER + 1 < LAYERS) forward<LAYER + 1>(shared, dropout, position, images);
}
