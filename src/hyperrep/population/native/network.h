// A small CNN, LANES copies of it with different weights: its architecture, and one optimiser step.
#pragma once

#include <cmath>
#include <vector>

#include "convolution.h"
#include "linear.h"
#include "skip.h"

// Architecture, read from a flat list of integers:
// number of convolutions, (inputs, size, outputs, kernel, pool) each, number of linear layers, (inputs, outputs) each,
// activation, number of skips, (source, target, convolves, stride, window, offset, size) each.
struct Network {
  std::vector<Convolution> convolutions;
  std::vector<Linear> linears;
  std::vector<Skip> skips;
  int activation, chain_parameters = 0, parameters;  // those of skips come last

  explicit Network(const int32_t* description) {
    const int32_t* next = description;
    for (int left = *next++; left > 0; left--, next += 5)
      convolutions.push_back({next[0], next[1], next[2], next[3], next[4]});
    for (int left = *next++; left > 0; left--, next += 2) linears.push_back({next[0], next[1]});
    activation = *next++;
    for (const auto& c : convolutions) chain_parameters += c.weights() + c.outputs;
    for (const auto& l : linears) chain_parameters += l.weights() + l.outputs;
    parameters = chain_parameters;
    for (int left = *next++; left > 0; left--, next += 7) {
      const Convolution& after = convolutions[next[0]];  // the source map is its input
      const int size = next[6], outputs = convolutions[next[1] - 1].outputs;
      skips.push_back({next[0], next[1], next[2] != 0, next[3], next[4], next[5], size, after.inputs, after.size,
                       Convolution{after.inputs, size, outputs, 1, 1}, parameters});
      parameters += skips.back().parameters();
    }
  }

  int pixels() const { return convolutions.empty() ? linears[0].inputs : convolutions[0].input_count(); }
  int classes() const { return linears.back().outputs; }
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
