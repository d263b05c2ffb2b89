// A population of small CNNs on a GPU: one block trains one network, whose weights, gradient and activations stay in
// shared memory from the first step of an epoch to the last. Only images, and Adam's two moments, come from memory.
//
// Compiled at run time for one architecture. compile.py writes these constants in front:
//   SHAPE       number of convolutions, (inputs, size, outputs, kernel, pool) each, number of linear layers,
//               (inputs, outputs) each
//   ACTIVATION  0 tanh, 1 relu, 2 gelu, 3 sigmoid
//   THREADS     of a block
//   CAPACITY    images that are in shared memory at once; a batch may have more
//
// architecture.cuh, functions.cuh, forward.cuh and backward.cuh come between them and this file.

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
