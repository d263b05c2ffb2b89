// The C interface: train, evaluate and differentiate a group of up to LANES networks. Called through ctypes, which
// releases Python's lock, so that groups run on several threads.
//
// Arrays have one row a network: weights and optimiser state (models, parameters), order (models, order_stride), and
// so on; images are (images, pixels). A group is the rows `first_model` ... `first_model + models - 1`. Lanes left
// over repeat its last network, and are not written. Every function returns soon after *stop is no longer zero.
#include "pass.h"

namespace {

struct Group {
  int64_t first_model, models;
  int64_t row(int64_t lane) const { return first_model + std::min(lane, models - 1); }

  std::vector<V> load(const float* rows, int count) const {
    const float* sources[LANES];
    for (int lane = 0; lane < LANES; lane++) sources[lane] = rows + row(lane) * count;
    std::vector<V> vectors(count);
    interleave(sources, count, vectors.data());
    return vectors;
  }

  void store(const std::vector<V>& vectors, float* rows) const {
    const int count = (int)vectors.size();
    float* targets[LANES];
    for (int lane = 0; lane < models; lane++) targets[lane] = rows + row(lane) * count;
    separate(vectors.data(), count, (int)models, targets);
  }

  V load_scalars(const float* values) const {
    V vector;
    for (int lane = 0; lane < LANES; lane++) vector[lane] = values[row(lane)];
    return vector;
  }
};

bool stopped(const int32_t* stop) { return __atomic_load_n(stop, __ATOMIC_RELAXED) != 0; }

void broadcast(const float* from, int count, V* to) {
  for (int i = 0; i < count; i++) to[i] = splat(from[i]);
}

// The logits' softmax, and the logarithm of what their exponentials were divided by.
void softmax(const V* logits, int classes, V* probabilities, V& log_total) {
  V largest = logits[0];
  for (int c = 1; c < classes; c++) largest = select(logits[c] > largest, logits[c], largest);
  V total = V{};
  for (int c = 0; c < classes; c++) total += probabilities[c] = exponential(logits[c] - largest);
  for (int c = 0; c < classes; c++) probabilities[c] /= total;
  for (int lane = 0; lane < LANES; lane++) log_total[lane] = std::log(total[lane]) + largest[lane];
}

// The class of the largest logit: the first of equals, or of NaNs, as in PyTorch.
I predicted_class(const V* logits, int classes) {
  V best = logits[0];
  I which = I{};
  for (int c = 1; c < classes; c++) {
    Mask better = (is_larger(logits[c], best) | is_nan(logits[c])) & ~is_nan(best);
    best = choose(better, logits[c], best);
    which = choose(better, I{} + c, which);
  }
  return which;
}

}  // namespace

extern "C" {

int hyperrep_lanes() { return LANES; }

// For the tests.
int hyperrep_parameters(const int32_t* description) { return Network(description).parameters; }

// For the tests: apply exp (0), tanh (1) or erf (2) to count * LANES numbers in place.
void hyperrep_function(int which, float* numbers, int count) {
  for (int i = 0; i < count * LANES; i += LANES) {
    V x = load(numbers + i);
    x = which == 0 ? exponential(x) : which == 1 ? hyperbolic_tangent(x) : error_function(x, exponential(-x * x));
    store(x, numbers + i);
  }
}

// Train on positions `begin` to `end` of each network's own `order`; batches are consecutive, and only the last of an
// epoch may be smaller. Without dropout its three arrays are null. Adds every network's loss, summed over images, to
// `loss`, and hits to `correct`.
void hyperrep_train(const int32_t* description, int64_t first_model, int64_t models, float* weights, float* first,
                    float* second, int64_t optimizer, const float* learning_rate, const float* weight_decay,
                    float momentum, const uint32_t* dropout_key, const uint32_t* dropout_threshold,
                    const float* dropout_scale, int64_t steps, int64_t batch_size, const float* images,
                    const int64_t* labels, const int64_t* order, int64_t order_stride, int64_t begin, int64_t end, double* loss,
                    int64_t* correct, const int32_t* stop) {
  const NoDenormals guard;
  const Group group{first_model, models};
  const Network network(description);
  const int classes = network.classes(), pixels = network.pixels(), parameters = network.parameters;
  auto w = group.load(weights, parameters), m = group.load(first, parameters), v = group.load(second, parameters);
  std::vector<V> gradient(parameters);
  const Update update{(Optimizer)optimizer, group.load_scalars(learning_rate), group.load_scalars(weight_decay),
                      momentum};
  Dropout dropout{};
  for (int lane = 0; dropout_key && lane < LANES; lane++) {
    dropout.key[lane] = dropout_key[group.row(lane)];
    dropout.threshold[lane] = dropout_threshold[group.row(lane)];
    dropout.scale[lane] = dropout_scale[group.row(lane)];
  }
  Pass pass(network, dropout_key ? &dropout : nullptr);
  const auto image_of = [&](int lane, int64_t position) { return order[group.row(lane) * order_stride + position]; };

  for (int64_t start = begin; start < end && !stopped(stop); start += batch_size) {
    const int64_t batch_end = std::min(end, start + batch_size);
    for (int64_t next = start; next < batch_end; next += pass.capacity) {
      const int count = (int)std::min<int64_t>(pass.capacity, batch_end - next);
      for (int n = 0; n < count; n++) {
        const float* sources[LANES];
        for (int lane = 0; lane < LANES; lane++) sources[lane] = images + image_of(lane, next + n) * pixels;
        interleave(sources, pixels, pass.image(n));
      }
      pass.forward(count, w.data(), next);
      for (int n = 0; n < count; n++) {
        const V* logits = pass.logits(n);
        V* logit_gradient = pass.logit_gradient(n);
        V log_total;
        const I predicted = predicted_class(logits, classes);
        softmax(logits, classes, logit_gradient, log_total);
        for (int lane = 0; lane < LANES; lane++) {
          const int64_t label = labels[image_of(lane, next + n)];
          logit_gradient[label][lane] -= 1.0f;
          if (lane >= models) continue;
          loss[group.row(lane)] += (double)log_total[lane] - logits[label][lane];
          correct[group.row(lane)] += predicted[lane] == label;
        }
        for (int c = 0; c < classes; c++) logit_gradient[c] /= (float)(batch_end - start);
      }
      pass.backward(count, w.data(), gradient.data());
    }
    update(++steps, parameters, w.data(), m.data(), v.data(), gradient.data());
  }
  group.store(w, weights);
  group.store(m, first);
  group.store(v, second);
}

// Evaluate on images `begin` to `end`. Adds to `loss` and `correct` as above; `predictions` (models,
// predictions_stride) may be null.
void hyperrep_evaluate(const int32_t* description, int64_t first_model, int64_t models, const float* weights,
                       const float* images, const int64_t* labels, int64_t begin, int64_t end, double* loss,
                       int64_t* correct, int32_t* predictions, int64_t predictions_stride, const int32_t* stop) {
  const NoDenormals guard;
  const Group group{first_model, models};
  const Network network(description);
  const int classes = network.classes(), pixels = network.pixels();
  const auto w = group.load(weights, network.parameters);
  std::vector<V> probabilities(classes);
  Pass pass(network);
  for (int64_t next = begin; next < end && !stopped(stop); next += pass.capacity) {
    const int count = (int)std::min<int64_t>(pass.capacity, end - next);
    for (int n = 0; n < count; n++) broadcast(images + (next + n) * pixels, pixels, pass.image(n));
    pass.forward(count, w.data());
    for (int n = 0; n < count; n++) {
      const I predicted = predicted_class(pass.logits(n), classes);
      const int64_t label = labels[next + n];
      V log_total;
      softmax(pass.logits(n), classes, probabilities.data(), log_total);
      for (int lane = 0; lane < models; lane++) {
        loss[group.row(lane)] += (double)log_total[lane] - pass.logits(n)[label][lane];
        correct[group.row(lane)] += predicted[lane] == label;
        if (predictions) predictions[group.row(lane) * predictions_stride + next + n] = predicted[lane];
      }
    }
  }
}

// Logits (models, logits_stride, classes) of images `begin` to `end`.
void hyperrep_logits(const int32_t* description, int64_t first_model, int64_t models, const float* weights,
                     const float* images, int64_t begin, int64_t end, float* logits, int64_t logits_stride,
                     const int32_t* stop) {
  const NoDenormals guard;
  const Group group{first_model, models};
  const Network network(description);
  const int classes = network.classes(), pixels = network.pixels();
  const auto w = group.load(weights, network.parameters);
  Pass pass(network);
  for (int64_t next = begin; next < end && !stopped(stop); next += pass.capacity) {
    const int count = (int)std::min<int64_t>(pass.capacity, end - next);
    for (int n = 0; n < count; n++) broadcast(images + (next + n) * pixels, pixels, pass.image(n));
    pass.forward(count, w.data());
    for (int n = 0; n < count; n++)
      for (int lane = 0; lane < models; lane++)
        for (int c = 0; c < classes; c++)
          logits[(group.row(lane) * logits_stride + next + n) * classes + c] = pass.logits(n)[c][lane];
  }
}

// Mean cross-entropy (models) between `targets` (models, count, classes; they sum to one) and the networks' outputs on
// the same `count` images, and its gradient (models, parameters).
void hyperrep_loss_gradient(const int32_t* description, int64_t first_model, int64_t models, const float* weights,
                            const float* images, const float* targets, int64_t count, double* loss, float* gradient,
                            const int32_t* stop) {
  const NoDenormals guard;
  const Group group{first_model, models};
  const Network network(description);
  const int classes = network.classes(), pixels = network.pixels();
  const auto w = group.load(weights, network.parameters);
  std::vector<V> total(network.parameters);
  Pass pass(network);
  for (int lane = 0; lane < models; lane++) loss[group.row(lane)] = 0;
  for (int64_t next = 0; next < count && !stopped(stop); next += pass.capacity) {
    const int images_now = (int)std::min<int64_t>(pass.capacity, count - next);
    for (int n = 0; n < images_now; n++) broadcast(images + (next + n) * pixels, pixels, pass.image(n));
    pass.forward(images_now, w.data());
    for (int n = 0; n < images_now; n++) {
      V* logit_gradient = pass.logit_gradient(n);
      V log_total;
      softmax(pass.logits(n), classes, logit_gradient, log_total);
      for (int c = 0; c < classes; c++) {
        for (int lane = 0; lane < LANES; lane++) {
          const float target = targets[(group.row(lane) * count + next + n) * classes + c];
          logit_gradient[c][lane] -= target;
          if (lane < models)
            loss[group.row(lane)] -= (double)target * (pass.logits(n)[c][lane] - log_total[lane]) / count;
        }
        logit_gradient[c] /= (float)count;
      }
    }
    pass.backward(images_now, w.data(), total.data());
  }
  group.store(total, gradient);
}

}  // extern "C"
