// A population of small CNNs on a GPU: one block trains one network, whose weights, gradient and activations stay in
// shared memory from the first step of an epoch to the last. Only images, and Adam's two moments, come from memory.
//
// Compiled at run time for one architecture. engine.py writes these constants in front:
//   SHAPE       number of convolutions, (inputs, size, outputs, kernel, pool) each, number of linear layers,
//               (inputs, outputs) each
//   ACTIVATION  0 tanh, 1 relu, 2 gelu, 3 sigmoid
//   THREADS     of a block
//   CAPACITY    images that are in shared memory at once; a batch may have more
//
// All work is written as EACH(item, count): items that do not depend on each other, dealt out to the threads of the
// block; SYNC() between one lot and the next. No sum depends on which thread was first, so the same launch gives the
// same bytes. A C++ compiler takes the same file and runs the items one after the other: that is how the arithmetic is
// tested where there is no GPU.
#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define CONSTANT __host__ __device__ constexpr
#define EACH(item, count) for (int item = threadIdx.x; item < (count); item += THREADS)
#define SYNC() __syncthreads()
#else
#include <cmath>
#define DEVICE inline
#define CONSTANT constexpr
#define EACH(item, count) for (int item = 0; item < (count); item++)
#define SYNC()
#endif

typedef unsigned int Bits;
typedef unsigned char Byte;

// --------------------------------------------------------------------------------------------------- architecture

struct Convolution {  // stride 1, no padding, and the max-pool after it
  int inputs, size, outputs, kernel, pool;
  CONSTANT int map() const { return size - kernel + 1; }  // height and width before pooling
  CONSTANT int pooled() const { return map() / pool; }
  CONSTANT int places() const { return pooled() * pooled(); }
  CONSTANT int weights() const { return outputs * inputs * kernel * kernel; }
  CONSTANT int padded() const { return size + kernel - 1; }  // the map's gradient with a border of zeros
  // Parts of all images' positions over which a kernel's gradient is first summed, so that there is work for all.
  CONSTANT int parts() const {
    const int rows = outputs * inputs * kernel, parts = THREADS / rows;
    return parts < 1 ? 1 : parts > 32 ? 32 : parts;
  }
};

struct Linear {
  int inputs, outputs;
};

constexpr int CONVOLUTIONS = SHAPE[0], LINEARS = SHAPE[1 + 5 * CONVOLUTIONS], LAYERS = CONVOLUTIONS + LINEARS;
constexpr int CLASSES = SHAPE[2 * LINEARS + 5 * CONVOLUTIONS + 1];

CONSTANT Convolution convolution(int layer) {
  const int at = 1 + 5 * layer;
  return {SHAPE[at], SHAPE[at + 1], SHAPE[at + 2], SHAPE[at + 3], SHAPE[at + 4]};
}

CONSTANT Linear linear(int layer) {
  const int at = 2 + 5 * CONVOLUTIONS + 2 * (layer - CONVOLUTIONS);
  return {SHAPE[at], SHAPE[at + 1]};
}

CONSTANT int larger(int a, int b) { return a > b ? a : b; }
CONSTANT int aligned(int count) { return (count + 3) / 4 * 4; }

// Numbers an image has after `layer` layers; 0 is the image itself.
CONSTANT int count(int layer) {
  if (layer > CONVOLUTIONS) return linear(layer - 1).outputs;
  if (layer > 0) return convolution(layer - 1).outputs * convolution(layer - 1).places();
  return CONVOLUTIONS > 0 ? convolution(0).inputs * convolution(0).size * convolution(0).size : linear(0).inputs;
}

CONSTANT int weights(int layer) {
  return layer < CONVOLUTIONS ? convolution(layer).weights() : linear(layer).inputs * linear(layer).outputs;
}

CONSTANT int outputs(int layer) { return layer < CONVOLUTIONS ? convolution(layer).outputs : linear(layer).outputs; }

CONSTANT int first_parameter(int layer) {
  int first = 0;
  for (int l = 0; l < layer; l++) first += weights(l) + outputs(l);
  return first;
}

// Of the hidden units, in forward order: what dropout's hash is asked for.
CONSTANT int first_unit(int layer) {
  int first = 0;
  for (int l = 1; l < layer; l++) first += count(l);
  return first;
}

constexpr int PARAMETERS = first_parameter(LAYERS), PIXELS = count(0);

// Shared memory, in floats. In training the values of a layer become, once nobody needs them, its gradient.
constexpr int WEIGHTS = 0, GRADIENT = WEIGHTS + aligned(PARAMETERS), VALUES = GRADIENT + aligned(PARAMETERS);
CONSTANT int value(int layer) {
  int at = VALUES;
  for (int l = 0; l < layer; l++) at += aligned(CAPACITY * count(l));
  return at;
}
constexpr int SLOPES = value(LAYERS + 1);  // of GELU: the others' slope follows from the value
CONSTANT int slope(int layer) {
  int at = SLOPES;
  for (int l = 1; l < layer; l++) at += aligned(CAPACITY * count(l));
  return at;
}
constexpr int SCRATCH = ACTIVATION == 2 ? slope(LAYERS) : SLOPES;
// Sums of a kernel's gradient by parts, and after them the gradient of the map before pooling.
CONSTANT int scratch() {
  int most = 3 * CAPACITY;  // losses and hits
  for (int l = 0; l < CONVOLUTIONS; l++) {
    const Convolution c = convolution(l);
    most = larger(most, c.parts() * (c.weights() + c.outputs));
    if (l > 0) most = larger(most, CAPACITY * c.outputs * c.padded() * c.padded());
  }
  return aligned(most);
}
constexpr int WINNERS = SCRATCH + scratch();  // bytes: which position of each pooling window was the largest
CONSTANT int winner(int layer) {
  int at = 4 * WINNERS;
  for (int l = 0; l < layer; l++) at += convolution(l).pool > 1 ? aligned(CAPACITY * count(l + 1)) : 0;
  return at;
}
constexpr int SHARED_BYTES = winner(CONVOLUTIONS);

// ---------------------------------------------------------------------------------------------- element by element

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

// --------------------------------------------------------------------------------------------------------- forward

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

// -------------------------------------------------------------------------------------------------------- backward

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

// ----------------------------------------------------------------------------------------------------------- losses

// The class of the largest logit: the first of equals, or of NaNs, as in PyTorch.
DEVICE int predicted_class(const float* logits) {
  float best = logits[0];
  int which = 0;
  for (int c = 1; c < CLASSES; c++) keep_larger(logits[c], c, best, which);
  return which;
}

// What images lost, and whether they were hits: at the beginning of SCRATCH, which nobody needs at that time.
DEVICE double* losses(float* shared) { return (double*)(shared + SCRATCH); }
DEVICE int* hits(float* shared) { return (int*)(shared + SCRATCH + 2 * CAPACITY); }

// Note image n's loss and hit; returns the logarithm of the sum of exponentials.
DEVICE float judge(float* shared, int n, int label) {
  const float* logits = shared + value(LAYERS) + n * CLASSES;
  float largest = logits[0], total = 0.0f;
  for (int c = 1; c < CLASSES; c++) largest = logits[c] > largest ? logits[c] : largest;
  for (int c = 0; c < CLASSES; c++) total += expf(logits[c] - largest);
  const float log_total = logf(total) + largest;
  losses(shared)[n] = (double)log_total - logits[label];
  hits(shared)[n] = predicted_class(logits) == label;
  return log_total;
}

// --------------------------------------------------------------------------------------------------------- training

struct Training {
  float *weights, *first, *second;                // (models, PARAMETERS)
  int optimizer;                                  // 0 Adam, 1 AdamW, 2 SGD
  const float *rates, *decays, *corrections;      // (models), (models), (2, steps)
  float momentum;
  int drops;                                      // whether there is dropout
  const Bits *keys, *thresholds;                  // (models)
  const float* scales;                            // (models)
  const float* images;                            // (images, PIXELS)
  const int *labels, *order;                      // (images), (models, stride)
  int stride, begin, end, batch_size, steps;      // positions `begin` to `end` of the order
  double* loss;                                   // (models), added to
  int* correct;                                   // (models), added to
};

DEVICE void train_network(const Training& t, int model, float* shared) {
  float *const first = t.first + (long long)model * PARAMETERS, *const second = t.second + (long long)model * PARAMETERS;
  float* const weights = t.weights + (long long)model * PARAMETERS;
  const int* order = t.order + (long long)model * t.stride;
  const float rate = t.rates[model], decay = t.decays[model];
  Dropout dropout{};
  if (t.drops) dropout = {true, t.keys[model], t.thresholds[model], t.scales[model]};
  EACH(i, PARAMETERS) {
    shared[WEIGHTS + i] = weights[i];
    shared[GRADIENT + i] = 0.0f;
  }
  double loss = 0.0;
  int correct = 0;
  SYNC();
  for (int start = t.begin, step = 0; start < t.end; start += t.batch_size, step++) {
    const int stop = start + t.batch_size < t.end ? start + t.batch_size : t.end;
    for (int next = start; next < stop; next += CAPACITY) {
      const int images = stop - next < CAPACITY ? stop - next : CAPACITY;
      EACH(i, images * PIXELS) {
        shared[value(0) + i] = t.images[(long long)order[next + i / PIXELS] * PIXELS + i % PIXELS];
      }
      SYNC();
      forward(shared, dropout, next, images);
      EACH(n, images) {
        float* logits = shared + value(LAYERS) + n * CLASSES;
        const int label = t.labels[order[next + n]];
        const float log_total = judge(shared, n, label);
        for (int c = 0; c < CLASSES; c++)
          logits[c] = (expf(logits[c] - log_total) - (c == label ? 1.0f : 0.0f)) / (float)(stop - start);
      }
      SYNC();
      EACH(only, 1) {
        for (int n = 0; n < images; n++) loss += losses(shared)[n], correct += hits(shared)[n];
      }
      backward(shared, dropout, next, images);
    }
    const float step_size = rate * t.corrections[step], correction2 = t.corrections[t.steps + step];
    EACH(i, PARAMETERS) {
      float g = shared[GRADIENT + i], w = shared[WEIGHTS + i];
      shared[GRADIENT + i] = 0.0f;
      if (t.optimizer == 1)
        w *= 1.0f - rate * decay;
      else
        g += decay * w;
      if (t.optimizer == 2) {
        const float m = t.momentum * first[i] + g;
        first[i] = m;
        shared[WEIGHTS + i] = w - rate * m;
        continue;
      }
      const float m = first[i] + 0.1f * (g - first[i]);
      const float v = 0.999f * second[i] + 0.001f * (g * g);
      first[i] = m;
      second[i] = v;
      shared[WEIGHTS + i] = w - step_size * m / (sqrtf(v) * correction2 + 1e-8f);
    }
    SYNC();
  }
  EACH(i, PARAMETERS) weights[i] = shared[WEIGHTS + i];
  EACH(only, 1) {
    t.loss[model] += loss;
    t.correct[model] += correct;
  }
}

// ------------------------------------------------------------------------------------------------------- evaluation

struct Testing {
  const float *weights, *images;    // (models, PARAMETERS), (images, PIXELS)
  const int* labels;                // (images)
  int count, slices;                // images, and parts of them that different blocks work on
  double* loss;                     // (models, slices)
  int* correct;                     // (models, slices)
  int* predictions;                 // (models, images)
  float* logits;                    // (models, images, CLASSES) where `keep`
  int keep;
};

DEVICE void test_network(const Testing& t, int model, int slice, float* shared) {
  const float* weights = t.weights + (long long)model * PARAMETERS;
  const int begin = (long long)t.count * slice / t.slices, end = (long long)t.count * (slice + 1) / t.slices;
  double loss = 0.0;
  int correct = 0;
  EACH(i, PARAMETERS) shared[WEIGHTS + i] = weights[i];
  SYNC();
  for (int next = begin; next < end; next += CAPACITY) {
    const int images = end - next < CAPACITY ? end - next : CAPACITY;
    EACH(i, images * PIXELS) shared[value(0) + i] = t.images[(long long)next * PIXELS + i];
    SYNC();
    forward(shared, Dropout{}, 0, images);
    EACH(n, images) {
      judge(shared, n, t.labels[next + n]);
      t.predictions[(long long)model * t.count + next + n] = predicted_class(shared + value(LAYERS) + n * CLASSES);
    }
    if (t.keep) {
      EACH(i, images * CLASSES) t.logits[((long long)model * t.count + next) * CLASSES + i] = shared[value(LAYERS) + i];
    }
    SYNC();
    EACH(only, 1) {
      for (int n = 0; n < images; n++) loss += losses(shared)[n], correct += hits(shared)[n];
    }
  }
  EACH(only, 1) {
    t.loss[model * t.slices + slice] = loss;
    t.correct[model * t.slices + slice] = correct;
  }
}

// ----------------------------------------------------------------------------------------------------- entry points

#define TRAINING_ARGUMENTS \
  float *weights, float *first, float *second, int optimizer, const float *rates, const float *decays, \
  const float *corrections, double momentum, int drops, const Bits *keys, const Bits *thresholds, const float *scales, \
  const float *images, const int *labels, const int *order, int stride, int begin, int end, int batch_size, int steps, \
  double *loss, int *correct
#define TRAINING_VALUES \
  {weights, first, second, optimizer, rates, decays, corrections, (float)momentum, drops, keys, thresholds, scales, \
   images, labels, order, stride, begin, end, batch_size, steps, loss, correct}
#define TESTING_ARGUMENTS \
  const float *weights, const float *images, const int *labels, int count, int slices, double *loss, int *correct, \
  int *predictions, float *logits, int keep
#define TESTING_VALUES {weights, images, labels, count, slices, loss, correct, predictions, logits, keep}

#ifdef __CUDACC__
extern __shared__ float4 shared_memory[];

extern "C" __global__ void __launch_bounds__(THREADS, 1) hyperrep_train(TRAINING_ARGUMENTS) {
  train_network(TRAINING_VALUES, blockIdx.x, (float*)shared_memory);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) hyperrep_test(TESTING_ARGUMENTS) {
  test_network(TESTING_VALUES, blockIdx.x, blockIdx.y, (float*)shared_memory);
}
#else
#include <vector>

extern "C" int hyperrep_shared_bytes() { return SHARED_BYTES; }

extern "C" void hyperrep_train(int models, TRAINING_ARGUMENTS) {
  std::vector<float> shared(SHARED_BYTES / 4 + 1);
  for (int model = 0; model < models; model++) train_network(TRAINING_VALUES, model, shared.data());
}

extern "C" void hyperrep_test(int models, TESTING_ARGUMENTS) {
  std::vector<float> shared(SHARED_BYTES / 4 + 1);
  for (int model = 0; model < models; model++)
    for (int slice = 0; slice < slices; slice++) test_network(TESTING_VALUES, model, slice, shared.data());
}
#endif
