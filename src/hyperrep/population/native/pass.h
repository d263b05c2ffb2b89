// Images on their way through LANES networks, forward and backward.
#pragma once

#include <vector>

#include "dropout.h"
#include "functions.h"
#include "network.h"

// Values and gradients of a few images on their way through LANES networks. It holds as many images as stay in the
// second-level cache: one for the poster's network, more for a small MLP, whose weights are then loaded less often.
class Pass {
 public:
  explicit Pass(const Network& network, const Dropout* dropout = nullptr) : network(network), dropout(dropout) {
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

    for (auto* arrays : {&values, &slopes, &outputs, &factors, &waiting}) arrays->resize(counts.size());
    for (size_t layer = 0; layer < counts.size(); layer++) {
      const bool hidden = layer > 0 && layer + 1 < counts.size();
      values[layer].resize(capacity * counts[layer]);
      if (hidden && network.activation == GELU) slopes[layer].resize(capacity * counts[layer]);
      if (hidden && dropout) outputs[layer].resize(capacity * counts[layer]);
      if (hidden && dropout) factors[layer].resize(capacity * counts[layer]);
    }
    for (const auto& c : network.convolutions) winners.emplace_back(c.pool > 1 ? capacity * c.output_count() : 0);
    for (const auto& s : network.skips) {
      outputs[s.target].resize(capacity * counts[s.target]);
      if (s.source > 0) waiting[s.source].resize(capacity * counts[s.source]);
      taken.emplace_back(capacity * s.taken());
      taken_from.emplace_back(capacity * s.taken());
      map_size = std::max<size_t>(map_size, std::max(s.taken(), s.convolution.output_count()));
    }
    dense.resize(map_size);
    shortcut.resize(map_size);
    gradient.resize(capacity * largest);
    next_gradient.resize(capacity * largest);
  }

  V* image(int n) { return values.front().data() + n * network.pixels(); }
  const V* logits(int n) const { return values.back().data() + n * network.classes(); }
  V* logit_gradient(int n) { return gradient.data() + n * network.classes(); }

  // From `images` images to their logits. `position` of the first image in the epoch decides what dropout drops.
  void forward(int images, const V* weights, int64_t position = 0) {
    const V* const first_weight = weights;
    size_t layer = 0;
    for (const auto& c : network.convolutions) {
      for (int n = 0; n < images; n++)
        convolve(c, output(layer, n), weights, weights + c.weights(), value(layer + 1, n), winner(layer, n));
      finish(++layer, images, first_weight, position);
      weights += c.weights() + c.outputs;
    }
    for (const auto& l : network.linears) {
      multiply(l, images, output(layer, 0), weights, weights + l.weights(), value(layer + 1, 0));
      if (++layer + 1 < values.size()) finish(layer, images, first_weight, position);
      weights += l.weights() + l.outputs;
    }
  }

  // From the logits' gradient, which the caller has left in logit_gradient(n), to the weights': added to
  // `weight_gradient`.
  void backward(int images, const V* weights, V* weight_gradient) {
    const V* const first_weight = weights;
    V* const first_gradient = weight_gradient;
    weights += network.chain_parameters;
    weight_gradient += network.chain_parameters;
    size_t layer = values.size() - 1;
    for (auto l = network.linears.rbegin(); l != network.linears.rend(); ++l) {
      if (layer + 1 < values.size()) undo(layer, images, first_weight, first_gradient);
      layer--;
      weights -= l->weights() + l->outputs;
      weight_gradient -= l->weights() + l->outputs;
      multiply_backward(*l, images, output(layer, 0), weights, gradient.data(), weight_gradient,
                        weight_gradient + l->weights(), layer > 0 ? next_gradient.data() : nullptr);
      gradient.swap(next_gradient);
    }
    for (auto c = network.convolutions.rbegin(); c != network.convolutions.rend(); ++c) {
      undo(layer, images, first_weight, first_gradient);
      layer--;
      weights -= c->weights() + c->outputs;
      weight_gradient -= c->weights() + c->outputs;
      for (int n = 0; n < images; n++)
        convolve_backward(*c, output(layer, n), weights, gradient.data() + n * c->output_count(), winner(layer, n),
                          dense.data(), weight_gradient, weight_gradient + c->weights(),
                          layer > 0 ? next_gradient.data() + n * c->input_count() : nullptr);
      gradient.swap(next_gradient);
    }
  }

  int capacity;  // images at once

 private:
  static constexpr size_t CACHE = 256 << 10;  // bytes

  V* value(size_t layer, int n) { return values[layer].data() + n * counts[layer]; }
  // A layer's values as the next one sees them.
  V* output(size_t layer, int n) {
    return outputs[layer].empty() ? value(layer, n) : outputs[layer].data() + n * counts[layer];
  }
  Byte* winner(size_t layer, int n) {
    return winners[layer].empty() ? nullptr : winners[layer].data() + n * counts[layer + 1];
  }

  // Activation, dropout, and the skips that end at this layer.
  void finish(size_t layer, int images, const V* weights, int64_t position) {
    const size_t count = images * counts[layer];
    activate(network.activation, count, values[layer].data(), slopes[layer].data());
    if (outputs[layer].empty()) return;
    std::copy_n(values[layer].begin(), count, outputs[layer].begin());
    if (dropout) {
      uint32_t first_unit = 0;
      for (size_t before = 1; before < layer; before++) first_unit += counts[before];
      for (int n = 0; n < images; n++)
        dropout->draw((uint32_t)(position + n), first_unit, counts[layer], factors[layer].data() + n * counts[layer]);
      for (size_t i = 0; i < count; i++) outputs[layer][i] *= factors[layer][i];
    }
    for (size_t k = 0; k < network.skips.size(); k++)
      if (network.skips[k].target == (int)layer)
        for (int n = 0; n < images; n++) add_skip(k, n, weights);
  }

  void add_skip(size_t k, int n, const V* weights) {
    const Skip& s = network.skips[k];
    const V* addend = taken[k].data() + n * s.taken();
    take(s, output(s.source, n), taken[k].data() + n * s.taken(), taken_from[k].data() + n * s.taken());
    if (s.convolves) {
      const V* kernel = weights + s.first_parameter;
      convolve(s.convolution, addend, kernel, kernel + s.convolution.weights(), shortcut.data(), nullptr);
      addend = shortcut.data();
    }
    V* sum = output(s.target, n);
    for (size_t i = 0; i < counts[s.target]; i++) sum[i] += addend[i];
  }

  // The way back through `finish`, in place in `gradient`.
  void undo(size_t layer, int images, const V* weights, V* weight_gradient) {
    const size_t count = images * counts[layer];
    for (size_t i = 0; i < count && !waiting[layer].empty(); i++) {
      gradient[i] += waiting[layer][i];
      waiting[layer][i] = V{};
    }
    for (size_t k = 0; k < network.skips.size(); k++)
      if (network.skips[k].target == (int)layer)
        for (int n = 0; n < images; n++) undo_skip(k, n, weights, weight_gradient);
    for (size_t i = 0; i < count && dropout; i++) gradient[i] *= factors[layer][i];
    activate_backward(network.activation, count, values[layer].data(), slopes[layer].data(), gradient.data());
  }

  void undo_skip(size_t k, int n, const V* weights, V* weight_gradient) {
    const Skip& s = network.skips[k];
    const V* arriving = gradient.data() + n * counts[s.target];
    if (s.convolves) {
      V* kernel_gradient = weight_gradient + s.first_parameter;
      convolve_backward(s.convolution, taken[k].data() + n * s.taken(), weights + s.first_parameter, arriving,
                        nullptr, dense.data(), kernel_gradient, kernel_gradient + s.convolution.weights(),
                        s.source > 0 ? shortcut.data() : nullptr);
      arriving = shortcut.data();
    }
    if (s.source > 0)
      give_back(s, arriving, taken_from[k].data() + n * s.taken(), waiting[s.source].data() + n * counts[s.source]);
  }

  const Network& network;
  const Dropout* dropout;
  std::vector<size_t> counts;           // numbers an image has in each layer; layer 0 is the image
  std::vector<std::vector<V>> values;   // of each layer, after the activation
  std::vector<std::vector<V>> slopes;   // of each layer's activation, where the values do not tell
  std::vector<std::vector<V>> outputs;  // of each layer, where dropout or a skip makes them differ from the values
  std::vector<std::vector<V>> factors;  // of each layer's dropout
  std::vector<std::vector<V>> waiting;  // gradient that skips have brought to each layer
  std::vector<std::vector<V>> taken;    // what each skip takes from its source, and from where in the window
  std::vector<std::vector<Byte>> taken_from, winners;
  std::vector<V> dense, shortcut, gradient, next_gradient;
};
