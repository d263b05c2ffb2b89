// A small CNN, LANES copies of it with different weights: forward, backward, and one optimiser step.
#pragma once

#include <cmath>
#include <vector>

#include "layers.h"

struct Linear {
  int inputs, outputs;
  int weights() const { return inputs * outputs; }
};

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

// Activations, slopes and gradients of one image, for LANES networks. Small enough to stay in the second-level cache.
class Pass {
 public:
  explicit Pass(const Network& network) : network(network), image(network.pixels()) {
    size_t dense_size = 0, largest = network.pixels();
    for (const auto& c : network.convolutions) {
      add_layer(c.output_count(), c.pool > 1 ? c.output_count() : 0);
      dense_size = std::max(dense_size, (size_t)c.outputs * c.map() * c.map());
      largest = std::max(largest, (size_t)c.output_count());
    }
    for (const auto& l : network.linears) {
      add_layer(l.outputs, 0);
      largest = std::max(largest, (size_t)l.outputs);
    }
    dense.resize(dense_size);
    gradient.resize(largest);
    next_gradient.resize(largest);
  }

  std::vector<V>& logits() { return values.back(); }

  void forward(const V* weights) {
    const V* in = image.data();
    size_t layer = 0;
    for (const auto& c : network.convolutions) {
      convolve(c, in, weights, weights + c.weights(), values[layer].data(), winners[layer].data());
      activate_all(network.activation, c.output_count(), values[layer].data(), slopes[layer].data());
      in = values[layer++].data();
      weights += c.weights() + c.outputs;
    }
    for (const auto& l : network.linears) {
      multiply(l.inputs, l.outputs, in, weights, weights + l.weights(), values[layer].data());
      if (layer + 1 < values.size())
        activate_all(network.activation, l.outputs, values[layer].data(), slopes[layer].data());
      in = values[layer++].data();
      weights += l.weights() + l.outputs;
    }
  }

  // Add the image's share to the weights' gradient. `logit_gradient` is the loss's gradient by the logits.
  void backward(const V* weights, const V* logit_gradient, V* weight_gradient) {
    weights += network.parameters;
    weight_gradient += network.parameters;
    std::copy(logit_gradient, logit_gradient + network.classes(), gradient.begin());
    size_t layer = values.size();
    for (auto l = network.linears.rbegin(); l != network.linears.rend(); ++l) {
      step_back(--layer, l->outputs, weights, weight_gradient, l->weights());
      V* below = layer > 0 ? next_gradient.data() : nullptr;
      multiply_backward(l->inputs, l->outputs, input_of(layer), weights, gradient.data(), weight_gradient,
                        weight_gradient + l->weights(), below);
      gradient.swap(next_gradient);
    }
    for (auto c = network.convolutions.rbegin(); c != network.convolutions.rend(); ++c) {
      step_back(--layer, c->outputs, weights, weight_gradient, c->weights());
      V* below = layer > 0 ? next_gradient.data() : nullptr;
      convolve_backward(*c, input_of(layer), weights, gradient.data(), winners[layer].data(), dense.data(),
                        weight_gradient, weight_gradient + c->weights(), below);
      gradient.swap(next_gradient);
    }
  }

  const Network& network;
  std::vector<V> image;

 private:
  void add_layer(int count, int pooled) {
    values.emplace_back(count);
    slopes.emplace_back(count);
    winners.emplace_back(pooled);
  }

  // Move to the layer below: its weights end where those of the layer above began. Then back through its activation.
  void step_back(size_t layer, int outputs, const V*& weights, V*& weight_gradient, int count) {
    weights -= count + outputs;
    weight_gradient -= count + outputs;
    if (layer + 1 == values.size()) return;  // logits have no activation
    for (size_t i = 0; i < values[layer].size(); i++) gradient[i] *= slopes[layer][i];
  }

  const V* input_of(size_t layer) const { return layer > 0 ? values[layer - 1].data() : image.data(); }

  std::vector<std::vector<V>> values, slopes;  // after the activation, and its derivative; one a layer
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
    const float correction2 = (float)std::sqrt(1.0 - std::pow(0.999, (double)step));
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
      weights[i] = w - step_size * m / (square_root(v) / correction2 + 1e-8f);
    }
  }
};
