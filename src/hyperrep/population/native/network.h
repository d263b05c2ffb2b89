// A small CNN, LANES copies of it with different weights: forward, backward, and one optimiser step.
#pragma once

#include <cmath>
#include <vector>

#include "convolution.h"
#include "functions.h"
#include "linear.h"

// Architecture, read from a flat list of integers:
// number of convolutions, (inputs, size, outputs, kernel, pool) each, number of linear layers, (inputs, outputs) each,
// activation.
struct Network {
  std::vector<Convolution> convolutions;
  std::vector<Linear> linears;
  int activation, parameters = 0;

  explicit Network(const int32_t* description) {
    const int32_t* next = description;
    for (int left = *next++; left > 0; left--, next += 5)
      convolutions.push_back({next[0], next[1], next[2], next[3], next[4]});
    for (int left = *next++; left > 0; left--, next += 2) linears.push_back({next[0], next[1]});
    activation = *next;
    for (const auto& c : convolutions) parameters += c.weights() + c.outputs;
    for (const auto& l : linears) parameters += l.weights() + l.outputs;
  }

  int pixels() const { return convolutions.empty() ? linears[0].inputs : convolutions[0].input_count(); }
  int classes() const { return linears.back().outputs; }
};

// Values and gradients of a few images on their way through LANES networks. It holds as many images as stay in the
// second-level cache: one for the poster's network, more for a small MLP, whose weights are then loaded less often.
class Pass {
 public:
  explicit Pass(const Network& network) : network(network) {
    counts.push_back(network.pixels());
    size_t map_size = 0;
    for (const auto& c : network.convolutions) {
      counts.push_back(c.output_count());
      map_size = std::max(map_size, (size_t)c.outputs * c.map() * c.map());
    }
    for (const auto& l : network.linears) counts.push_back(l.outputs);
    size_t total = 0, largest = 0;
    for (size_t count : counts) total += count, largest = std::max(largest, count);
    capacity = std::clamp((int)(CACHE / (total * sizeof(V))), 1, 16);
    for (size_t count : counts) values.emplace_back(capacity * count);
    slopes.resize(counts.size());
    if (network.activation == GELU)
      for (size_t layer = 1; layer + 1 < counts.size(); layer++) slopes[layer].resize(capacity * counts[layer]);
    for (const auto& c : network.convolutions) winners.emplace_back(c.pool > 1 ? capacity * c.output_count() : 0);
    dense.resize(map_size);
    gradient.resize(capacity * largest);
    next_gradient.resize(capacity * largest);
  }

  V* image(int n) { return values.front().data() + n * network.pixels(); }
  const V* logits(int n) const { return values.back().data() + n * network.classes(); }
  V* logit_gradient(int n) { return gradient.data() + n * network.classes(); }

  // From `images` images to their logits.
  void forward(int images, const V* weights) {
    size_t layer = 0;
    for (const auto& c : network.convolutions) {
      for (int n = 0; n < images; n++)
        convolve(c, value(layer, n), weights, weights + c.weights(), value(layer + 1, n), winner(layer, n));
      apply_activation(++layer, images);
      weights += c.weights() + c.outputs;
    }
    for (const auto& l : network.linears) {
      multiply(l, images, value(layer, 0), weights, weights + l.weights(), value(layer + 1, 0));
      if (++layer + 1 < values.size()) apply_activation(layer, images);
      weights += l.weights() + l.outputs;
    }
  }

  // From the logits' gradient, which the caller has left in logit_gradient(n), to the weights': added to
  // `weight_gradient`.
  void backward(int images, const V* weights, V* weight_gradient) {
    weights += network.parameters;
    weight_gradient += network.parameters;
    size_t layer = values.size() - 1;
    for (auto l = network.linears.rbegin(); l != network.linears.rend(); ++l) {
      if (layer + 1 < values.size()) undo_activation(layer, images);
      layer--;
      weights -= l->weights() + l->outputs;
      weight_gradient -= l->weights() + l->outputs;
      multiply_backward(*l, images, value(layer, 0), weights, gradient.data(), weight_gradient,
                        weight_gradient + l->weights(), layer > 0 ? next_gradient.data() : nullptr);
      gradient.swap(next_gradient);
    }
    for (auto c = network.convolutions.rbegin(); c != network.convolutions.rend(); ++c) {
      undo_activation(layer, images);
      layer--;
      weights -= c->weights() + c->outputs;
      weight_gradient -= c->weights() + c->outputs;
      for (int n = 0; n < images; n++)
        convolve_backward(*c, value(layer, n), weights, gradient.data() + n * c->output_count(), winner(layer, n),
                          dense.data(), weight_gradient, weight_gradient + c->weights(),
                          layer > 0 ? next_gradient.data() + n * c->input_count() : nullptr);
      gradient.swap(next_gradient);
    }
  }

  int capacity;  // images at once

 private:
  static constexpr size_t CACHE = 256 << 10;  // bytes

  V* value(size_t layer, int n) { return values[layer].data() + n * counts[layer]; }
  Byte* winner(size_t layer, int n) {
    return winners[layer].empty() ? nullptr : winners[layer].data() + n * counts[layer + 1];
  }

  void apply_activation(size_t layer, int images) {
    activate(network.activation, images * counts[layer], values[layer].data(), slopes[layer].data());
  }
  void undo_activation(size_t layer, int images) {
    activate_backward(network.activation, images * counts[layer], values[layer].data(), slopes[layer].data(),
                      gradient.data());
  }

  const Network& network;
  std::vector<size_t> counts;          // numbers an image has in each layer; layer 0 is the image
  std::vector<std::vector<V>> values;  // of each layer, after the activation
  std::vector<std::vector<V>> slopes;  // of each layer's activation, where the values do not tell
  std::vector<std::vector<Byte>> winners;
  std::vector<V> dense, gradient, next_gradient;
};

// ----------------------------------------------------------------------------------------------------- optimisers

enum Optimizer { ADAM = 0, ADAMW = 1, SGD = 2 };

struct Update {
  Optimizer optimizer;
  V learning_rate, weight_decay;
  float momentum;

  // One step with torch.optim's formulas; the gradient is set to zero for the next batch.
  void operator()(int64_t step, int count, V* weights, V* first, V* second, V* gradient) const {
    const float correction1 = (float)(1.0 - std::pow(0.9, (double)step));
    const float inverse_correction2 = (float)(1.0 / std::sqrt(1.0 - std::pow(0.999, (double)step)));
    const V step_size = learning_rate / correction1;
    const V shrink = 1.0f - learning_rate * weight_decay;
    for (int i = 0; i < count; i++) {
      V g = gradient[i], w = weights[i];
      gradient[i] = V{};
      if (optimizer == ADAMW)
        w *= shrink;
      else
        g += weight_decay * w;
      if (optimizer == SGD) {
        first[i] = momentum * first[i] + g;
        weights[i] = w - learning_rate * first[i];
        continue;
      }
      V m = first[i] + 0.1f * (g - first[i]);
      V v = 0.999f * second[i] + 0.001f * (g * g);
      first[i] = m;
      second[i] = v;
      weights[i] = w - step_size * m / (square_root(v) * inverse_correction2 + 1e-8f);
    }
  }
};
