// Fully connected layers, forward and backward, for LANES networks at once and several images each.
//
// Weights are (outputs, inputs); inputs and outputs are (images, ...). A large layer's weights do not fit into the
// caches, so each one loaded serves a tile of images.
#pragma once

#include "vector.h"

struct Linear {
  int inputs, outputs;
  int weights() const { return inputs * outputs; }
};

// Call f(first, SIZE) for tiles of 0 ... count - 1: as many fours as there are, then ones.
template <class F>
INLINE void for_tiles(int count, F f) {
  int first = 0;
  for (; first + 4 <= count; first += 4) f(first, std::integral_constant<int, 4>());
  for (; first < count; first++) f(first, std::integral_constant<int, 1>());
}

// Every sum runs over the inputs in order, whatever the tile: an image's result does not depend on its neighbours.
inline void multiply(const Linear& l, int images, const V* in, const V* weight, const V* bias, V* out) {
  for_tiles(images, [&](int image, auto image_tile) {
    for_tiles(l.outputs, [&](int output, auto output_tile) {
      constexpr int N = image_tile, O = output_tile;
      const V *x = in + image * l.inputs, *w = weight + output * l.inputs;
      V sum[N][O];
      for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++) sum[n][o] = bias[output + o];
      for (int i = 0; i < l.inputs; i++)
        for (int n = 0; n < N; n++)
          for (int o = 0; o < O; o++) sum[n][o] += w[o * l.inputs + i] * x[n * l.inputs + i];
      for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++) out[(image + n) * l.outputs + output + o] = sum[n][o];
    });
  });
}

// `in_gradient` may be null.
inline void multiply_backward(const Linear& l, int images, const V* in, const V* weight, const V* gradient,
                              V* weight_gradient, V* bias_gradient, V* in_gradient) {
  for (int n = 0; n < images; n++)
    for (int o = 0; o < l.outputs; o++) bias_gradient[o] += gradient[n * l.outputs + o];

  for_tiles(l.outputs, [&](int output, auto output_tile) {
    for_tiles(images, [&](int image, auto image_tile) {
      constexpr int N = image_tile, O = output_tile;
      const V *x = in + image * l.inputs, *g = gradient + image * l.outputs + output;
      V* target = weight_gradient + output * l.inputs;
      for (int i = 0; i < l.inputs; i++) {
        for (int o = 0; o < O; o++) {
          V sum = target[o * l.inputs + i];
          for (int n = 0; n < N; n++) sum += g[n * l.outputs + o] * x[n * l.inputs + i];
          target[o * l.inputs + i] = sum;
        }
      }
    });
  });
  if (!in_gradient) return;

  for_tiles(images, [&](int image, auto image_tile) {
    for_tiles(l.inputs, [&](int input, auto input_tile) {
      constexpr int N = image_tile, T = input_tile;
      V sum[N][T] = {};
      for (int o = 0; o < l.outputs; o++)
        for (int n = 0; n < N; n++)
          for (int t = 0; t < T; t++)
            sum[n][t] += gradient[(image + n) * l.outputs + o] * weight[o * l.inputs + input + t];
      for (int n = 0; n < N; n++)
        for (int t = 0; t < T; t++) in_gradient[(image + n) * l.inputs + input + t] = sum[n][t];
    });
  });
}
