// Connections around blocks: every n-th position of an earlier map, or its maxima under a 1x1 convolution.
#pragma once

#include "convolution.h"

struct Skip {
  int source, target;                // maps; 0 is the image, i the output of block i
  bool convolves;                    // or the identity
  int stride, window, offset, size;  // where it takes from the source map, and its result's height and width
  int channels, source_size;         // of the source map
  Convolution convolution;           // 1x1, on the maxima
  int first_parameter;               // in the weight vector

  int parameters() const { return convolves ? convolution.weights() + convolution.outputs : 0; }
  int taken() const { return channels * size * size; }
  // Channel and place of number `i` of the result, as an index into the source map.
  int corner(int i) const {
    const int channel = i / (size * size), y = i / size % size, x = i % size;
    return (channel * source_size + y * stride + offset) * source_size + x * stride + offset;
  }
};

// What the skip takes from one image's source map; which position of each window was the largest goes to `winner`.
inline void take(const Skip& s, const V* map, V* taken, Byte* winner) {
  for (int i = 0; i < s.taken(); i++) {
    const V* corner = map + s.corner(i);
    V best = corner[0];
    I which = I{};
    for (int k = 1; k < s.window * s.window; k++)
      keep_larger(corner[k / s.window * s.source_size + k % s.window], k, best, which);
    taken[i] = best;
    winner[i] = narrow(which);
  }
}

// From the gradient of what was taken to the source map's, added to `map_gradient`.
inline void give_back(const Skip& s, const V* gradient, const Byte* winner, V* map_gradient) {
  for (int i = 0; i < s.taken(); i++) {
    V* corner = map_gradient + s.corner(i);
    I which = widen(winner[i]);
    for (int k = 0; k < s.window * s.window; k++)
      corner[k / s.window * s.source_size + k % s.window] += select(which == k, gradient[i], V{});
  }
}
