// The C interface: train, evaluate and differentiate LANES networks. Called through ctypes, which releases Python's
// lock, so that groups of networks run on several threads.
//
// Arrays of networks' weights and optimiser state are (parameters, LANES), images (images, pixels).
#include <cstring>

#include "network.h"

namespace {

std::vector<V> load(const float* from, int count) {
  std::vector<V> vectors(count);
  std::memcpy(vectors.data(), from, sizeof(V) * count);
  return vectors;
}

void store(const std::vector<V>& vectors, float* to) { std::memcpy(to, vectors.data(), sizeof(V) * vectors.size()); }

V load_lanes(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

// Each network's own image into its lane.
void interleave(const float* const* sources, int pixels, V* image) {
  float* out = (float*)image;
  for (int lane = 0; lane < LANES; lane++) {
    const float* source = sources[lane];
    for (int p = 0; p < pixels; p++) out[p * LANES + lane] = source[p];
  }
}

// Turn logits into probabilities, and return the logarithm of what they were divided by.
void softmax(V* logits, int classes, V& log_total) {
  V largest = logits[0];
  for (int c = 1; c < classes; c++) largest = select(logits[c] > largest, logits[c], largest);
  V total = V{};
  for (int c = 0; c < classes; c++) total += logits[c] = exponential(logits[c] - largest);
  for (int c = 0; c < classes; c++) logits[c] = logits[c] / total;
  for (int lane = 0; lane < LANES; lane++) log_total[lane] = std::log(total[lane]) + largest[lane];
}

int predicted_class(const V* logits, int classes, int lane) {
  int best = 0;
  for (int c = 1; c < classes; c++)
    if (logits[c][lane] > logits[best][lane]) best = c;
  return best;
}

}  // namespace

extern "C" {

int hyperrep_lanes() { return LANES; }

// For the tests: apply exp (0), tanh (1) or erf (2) to count * LANES numbers in place.
void hyperrep_function(int which, float* numbers, int count) {
  for (int i = 0; i < count; i++) {
    V x = load_lanes(numbers + i * LANES);
    x = which == 0 ? exponential(x) : which == 1 ? hyperbolic_tangent(x) : error_function(x);
    std::memcpy(numbers + i * LANES, &x, sizeof(V));
  }
}

// Train on `count` images in each network's own `order` (LANES, order_stride); batches are consecutive, and only the
// last of all may be smaller. Adds every network's loss, summed over images, to `loss`, and hits to `correct`.
void hyperrep_train(const int32_t* description, float* weights, float* first, float* second, int optimizer,
                    const float* learning_rate, const float* weight_decay, float momentum, int64_t steps,
                    const float* images, const int64_t* labels, const int64_t* order, int64_t order_stride,
                    int64_t count, int64_t batch_size, double* loss, int64_t* correct) {
  const Network network(description);
  const int classes = network.classes(), pixels = network.pixels(), parameters = network.parameters;
  auto w = load(weights, parameters), m = load(first, parameters), v = load(second, parameters);
  std::vector<V> gradient(parameters), logits(classes);
  const Update update{(Optimizer)optimizer, load_lanes(learning_rate), load_lanes(weight_decay), momentum};
  Pass pass(network);

  for (int64_t start = 0; start < count; start += batch_size) {
    const int64_t end = std::min(count, start + batch_size);
    for (int64_t position = start; position < end; position++) {
      const float* sources[LANES];
      int64_t label[LANES];
      for (int lane = 0; lane < LANES; lane++) {
        const int64_t index = order[lane * order_stride + position];
        sources[lane] = images + index * pixels;
        label[lane] = labels[index];
      }
      interleave(sources, pixels, pass.image.data());
      pass.forward(w.data());

      logits = pass.logits();
      for (int lane = 0; lane < LANES; lane++) {
        loss[lane] -= logits[label[lane]][lane];
        correct[lane] += predicted_class(logits.data(), classes, lane) == label[lane];
      }
      V log_total;
      softmax(logits.data(), classes, log_total);
      for (int lane = 0; lane < LANES; lane++) {
        loss[lane] += log_total[lane];
        logits[label[lane]][lane] -= 1.0f;
      }
      for (int c = 0; c < classes; c++) logits[c] = logits[c] / (float)(end - start);
      pass.backward(w.data(), logits.data(), gradient.data());
    }
    update(++steps, parameters, w.data(), m.data(), v.data(), gradient.data());
  }
  store(w, weights);
  store(m, first);
  store(v, second);
}

// Logits (LANES, count, classes) of all networks on the same `count` images.
void hyperrep_logits(const int32_t* description, const float* weights, const float* images, int64_t count,
                     float* logits) {
  const Network network(description);
  const int classes = network.classes(), pixels = network.pixels();
  const auto w = load(weights, network.parameters);
  Pass pass(network);
  for (int64_t position = 0; position < count; position++) {
    for (int p = 0; p < pixels; p++) pass.image[p] = splat(images[position * pixels + p]);
    pass.forward(w.data());
    for (int lane = 0; lane < LANES; lane++)
      for (int c = 0; c < classes; c++) logits[(lane * count + position) * classes + c] = pass.logits()[c][lane];
  }
}

// Mean cross-entropy (LANES) between `targets` (LANES, count, classes; they sum to one) and all networks' outputs on
// the same `count` images, and its gradient (parameters, LANES).
void hyperrep_loss_gradient(const int32_t* description, const float* weights, const float* images,
                            const float* targets, int64_t count, double* loss, float* gradient) {
  const Network network(description);
  const int classes = network.classes(), pixels = network.pixels();
  const auto w = load(weights, network.parameters);
  std::vector<V> total(network.parameters), logits(classes);
  Pass pass(network);
  for (int lane = 0; lane < LANES; lane++) loss[lane] = 0;
  for (int64_t position = 0; position < count; position++) {
    for (int p = 0; p < pixels; p++) pass.image[p] = splat(images[position * pixels + p]);
    pass.forward(w.data());
    logits = pass.logits();
    V log_total;
    softmax(logits.data(), classes, log_total);
    for (int c = 0; c < classes; c++) {
      for (int lane = 0; lane < LANES; lane++) {
        const float target = targets[(lane * count + position) * classes + c];
        loss[lane] -= (double)target * (pass.logits()[c][lane] - log_total[lane]) / count;
        logits[c][lane] -= target;
      }
      logits[c] = logits[c] / (float)count;
    }
    pass.backward(w.data(), logits.data(), total.data());
  }
  store(total, gradient);
}

}  // extern "C"
