// From the logits' gradient to that of the weights.

template <int LAYER>
DEVICE void multiply_backward(float* shared, const Dropout& dropout, int position, int images) {
  constexpr Linear l = linear(LAYER);
  constexpr int FIRST = first_parameter(LAYER);
  const float *in = shared + value(LAYER), *gradient = shared + value(LAYER + 1), *weight = shared + WEIGHTS + FIRST;
  EACH(item, weights(LAYER) + l.outputs) {
    const bool bias = item >= weights(LAYER);
    const int o = bias ? item - weights(LAYER) : item / l.inputs, i = item % l.inputs;
    float sum = shared[GRADIENT + FIRST + item];
    for (int n = 0; n < images; n++) sum += gradient[n * l.outputs + o] * (bias ? 1.0f : in[n * l.inputs + i]);
    shared[GRADIENT + FIRST + item] = sum;
  }
  SYNC();
  if constexpr (LAYER > 0) {
    EACH(item, images * l.inputs) {
      float sum = 0.0f;
      for (int o = 0; o < l.outputs; o++)
        sum += gradient[item / l.inputs * l.outputs + o] * weight[o * l.inputs + item % l.inputs];
      undo<LAYER>(shared, dropout, position, item, sum);
    }
    SYNC();
  }
}

// One row of one kernel's gradient an item, over a part of all positions; only a window's winner has a gradient.
template <int LAYER>
DEVICE void kernel_gradient(float* shared, int images) {
  constexpr Convolution c = convolution(LAYER);
  constexpr int K = c.kernel, PLACES = c.places(), POOLED = c.pooled(), PARTS = c.parts();
  constexpr int ROWS = c.outputs * c.inputs * K, ALL = c.weights() + c.outputs;
  const float *in = shared + value(LAYER), *gradient = shared + value(LAYER + 1);
  const Byte* won = (const Byte*)shared + winner(LAYER);
  const int positions = images * PLACES;
  EACH(item, PARTS * ROWS) {
    const int part = item / ROWS, row = item % ROWS;
    const int ky = row % K, i = row / K % c.inputs, o = row / (K * c.inputs);
    const int begin = part * positions / PARTS, end = (part + 1) * positions / PARTS;
    int n = begin / PLACES, place = begin % PLACES;
    float sum[K] = {}, total = 0.0f;
    for (int at = begin; at < end; at++) {
      const int from = n * count(LAYER + 1) + o * PLACES + place;
      const float g = gradient[from];
      int y = place / POOLED * c.pool + ky, x = place % POOLED * c.pool;
      if constexpr (c.pool > 1) {
        const int which = won[from];
        y += which / c.pool;
        x += which % c.pool;
      }
      const float* line = in + n * count(LAYER) + (i * c.size + y) * c.size + x;
#pragma unroll
      for (int kx = 0; kx < K; kx++) sum[kx] += g * line[kx];
      total += g;
      if (++place == PLACES) place = 0, n++;
    }
    float* target = shared + SCRATCH + part * ALL;
#pragma unroll
    for (int kx = 0; kx < K; kx++) target[row * K + kx] = sum[kx];
    if (ky == 0 && i == 0) target[c.weights() + o] = total;
  }
  SYNC();
  EACH(item, ALL) {
    float sum = shared[GRADIENT + first_parameter(LAYER) + item];
    for (int part = 0; part < PARTS; part++) sum += shared[SCRATCH + part * ALL + item];
    shared[GRADIENT + first_parameter(LAYER) + item] = sum;
  }
  SYNC();
}

// Gradient of the map before pooling, with a border of zeros; then every input's sum over what it went into.
template <int LAYER>
DEVICE void input_gradient(float* shared, const Dropout& dropout, int position, int images) {
  constexpr Convolution c = convolution(LAYER);
  constexpr int K = c.kernel, PLACES = c.places(), POOLED = c.pooled(), SIDE = c.padded(), AREA = SIDE * SIDE;
  const float *gradient = shared + value(LAYER + 1), *weight = shared + WEIGHTS + first_parameter(LAYER);
  float* dense = shared + SCRATCH;
  EACH(item, images * c.outputs * AREA) {
    const int map = item / AREA, y = item % AREA / SIDE - (K - 1), x = item % SIDE - (K - 1);
    float g = 0.0f;
    if (y >= 0 && x >= 0 && y < POOLED * c.pool && x < POOLED * c.pool) {
      const int from = map * PLACES + y / c.pool * POOLED + x / c.pool;
      bool won = true;
      if constexpr (c.pool > 1)
        won = ((const Byte*)shared)[winner(LAYER) + from] == y % c.pool * c.pool + x % c.pool;
      if (won) g = gradient[from];
    }
    dense[item] = g;
  }
  SYNC();
  constexpr int BLOCK = block(c.inputs), GROUPS = c.inputs / BLOCK, WIDE = c.size % 2 == 0 ? 2 : 1;
  constexpr int ACROSS = c.size / WIDE, TILES = ACROSS * ACROSS, WINDOW = K + WIDE - 1;
  EACH(item, images * GROUPS * TILES) {
    const int tile = item % TILES, group = item / TILES % GROUPS, n = item / (TILES * GROUPS);
    const int y = tile / ACROSS * WIDE, x = tile % ACROSS * WIDE;
    float sum[BLOCK][WIDE * WIDE] = {};
#pragma unroll 1
    for (int o = 0; o < c.outputs; o++) {
      const float* corner = dense + (n * c.outputs + o) * AREA + y * SIDE + x;
      float window[WINDOW][WINDOW];
#pragma unroll
      for (int v = 0; v < WINDOW; v++)
#pragma unroll
        for (int u = 0; u < WINDOW; u++) window[v][u] = corner[v * SIDE + u];
      const float* w = weight + (o * c.inputs + group * BLOCK) * K * K;
#pragma unroll
      for (int b = 0; b < BLOCK; b++)
#pragma unroll
        for (int t = 0; t < K * K; t++) {
          const float tap = w[b * K * K + t];
#pragma unroll
          for (int k = 0; k < WIDE * WIDE; k++)
            sum[b][k] += tap * window[K - 1 - t / K + k / WIDE][K - 1 - t % K + k % WIDE];
        }
    }
#pragma unroll
    for (int b = 0; b < BLOCK; b++)
#pragma unroll
      for (int k = 0; k < WIDE * WIDE; k++) {
        const int i = n * count(LAYER) + ((group * BLOCK + b) * c.size + y + k / WIDE) * c.size + x + k % WIDE;
        undo<LAYER>(shared, dropout, position, i, sum[b][k]);
      }
  }
  SYNC();
}

// From the logits' gradient, in the logits' place, to the weights': added to GRADIENT.
template <int LAYER = LAYERS - 1>
DEVICE void backward(float* shared, const Dropout& dropout, int position, int images) {
  if constexpr (LAYER >= CONVOLUTIONS) {
    multiply_backward<LAYER>(shared, dropout, position, images);
  } else {
    kernel_gradient<LAYER>(shared, images);
    if constexpr (LAYER > 0) input_gradient<LAYER>(shared, dropout, position, images);
  }
  if constexpr (LAYER > 0) backward<LAYER - 1>(shared, dropout, position, images);
}
