// Forward and backward passes of single layers, for LANES networks at once and one image each.
//
// Every array is an array of V: entry i holds number i of all LANES networks. Maps are (channels, height, width).
#pragma once

#include <algorithm>

#include "vector.h"

enum Activation { TANH = 0, RELU = 1, GELU = 2, SIGMOID = 3 };

// Apply the activation in place and leave its slope, which the backward pass multiplies by.
template <Activation A>
INLINE void activate(V& value, V& slope) {
  V x = value;
  if constexpr (A == TANH) {
    value = hyperbolic_tangent(x);
    slope = 1.0f - value * value;
  } else if constexpr (A == RELU) {
    value = select(x < 0.0f, splat(0.0f), x);  // a comparison with NaN is false: NaN passes through
    slope = select(x > 0.0f, splat(1.0f), splat(0.0f));
  } else if constexpr (A == SIGMOID) {
    V e = exponential(-absolute(x));
    V r = 1.0f / (1.0f + e);
    value = select(x < 0.0f, e * r, r);
    slope = value * (1.0f - value);
  } else {
    V cdf = 0.5f * (1.0f + error_function(x * 0.70710678118654752f));
    V density = 0.39894228040143268f * exponential(-0.5f * x * x);
    value = x * cdf;
    slope = cdf + x * density;
  }
}

inline void activate_all(int activation, int count, V* values, V* slopes) {
  switch (activation) {
    case TANH: for (int i = 0; i < count; i++) activate<TANH>(values[i], slopes[i]); break;
    case RELU: for (int i = 0; i < count; i++) activate<RELU>(values[i], slopes[i]); break;
    case GELU: for (int i = 0; i < count; i++) activate<GELU>(values[i], slopes[i]); break;
    case SIGMOID: for (int i = 0; i < count; i++) activate<SIGMOID>(values[i], slopes[i]); break;
  }
}

// A convolution with stride 1 and no padding, and the max-pool after it.
struct Convolution {
  int inputs, size, outputs, kernel, pool;  // channels, height and width of the input map, channels, ...
  int map() const { return size - kernel + 1; }     // height and width before pooling
  int pooled() const { return map() / pool; }       // and after
  int weights() const { return outputs * inputs * kernel * kernel; }
  int input_count() const { return inputs * size * size; }
  int output_count() const { return outputs * pooled() * pooled(); }
};

// ---------------------------------------------------------------------------------------------------- forward

// BLOCK output channels of a convolution and its pool of POOL x POOL. The map before pooling is never written: the
// POOL * POOL positions of one window times BLOCK channels stay in registers, so that each load serves several
// multiply-adds.
template <int BLOCK, int POOL>
void convolve_block(const Convolution& c, int channel, const V* in, const V* weight, const V* bias, V* out,
                    Byte* winner) {
  constexpr int WINDOW = POOL * POOL;
  const int taps = c.kernel * c.kernel, pooled = c.pooled();
  for (int py = 0; py < pooled; py++) {
    for (int px = 0; px < pooled; px++) {
      V sum[BLOCK][WINDOW];
      for (int o = 0; o < BLOCK; o++)
        for (int k = 0; k < WINDOW; k++) sum[o][k] = bias[channel + o];
      for (int i = 0; i < c.inputs; i++) {
        const V* corner = in + (i * c.size + py * POOL) * c.size + px * POOL;
        const V* w = weight + (channel * c.inputs + i) * taps;
        for (int ky = 0; ky < c.kernel; ky++) {
          for (int kx = 0; kx < c.kernel; kx++) {
            V x[WINDOW];
            for (int k = 0; k < WINDOW; k++) x[k] = corner[(ky + k / POOL) * c.size + kx + k % POOL];
            for (int o = 0; o < BLOCK; o++) {
              V tap = w[o * c.inputs * taps + ky * c.kernel + kx];
              for (int k = 0; k < WINDOW; k++) sum[o][k] += tap * x[k];
            }
          }
        }
      }
      for (int o = 0; o < BLOCK; o++) {
        V best = sum[o][0];
        I which = I{};
        for (int k = 1; k < WINDOW; k++) {  // the first of equals wins and NaN wins over all, as in PyTorch
          I better = (sum[o][k] > best) | (sum[o][k] != sum[o][k]);
          best = select(better, sum[o][k], best);
          which = better ? (I{} + k) : which;
        }
        const int place = ((channel + o) * pooled + py) * pooled + px;
        out[place] = best;
        if constexpr (POOL > 1) winner[place] = __builtin_convertvector(which, Byte);
      }
    }
  }
}

// The same for a pool of any size: one position of the window after the other, with a running maximum.
template <int BLOCK>
void convolve_block_any(const Convolution& c, int channel, const V* in, const V* weight, const V* bias, V* out,
                        Byte* winner) {
  const int taps = c.kernel * c.kernel, pooled = c.pooled();
  for (int py = 0; py < pooled; py++) {
    for (int px = 0; px < pooled; px++) {
      V best[BLOCK];
      I which[BLOCK];
      for (int k = 0; k < c.pool * c.pool; k++) {
        V sum[BLOCK];
        for (int o = 0; o < BLOCK; o++) sum[o] = bias[channel + o];
        for (int i = 0; i < c.inputs; i++) {
          const V* corner =
              in + (i * c.size + py * c.pool + k / c.pool) * c.size + px * c.pool + k % c.pool;
          const V* w = weight + (channel * c.inputs + i) * taps;
          for (int ky = 0; ky < c.kernel; ky++)
            for (int kx = 0; kx < c.kernel; kx++)
              for (int o = 0; o < BLOCK; o++)
                sum[o] += w[o * c.inputs * taps + ky * c.kernel + kx] * corner[ky * c.size + kx];
        }
        for (int o = 0; o < BLOCK; o++) {
          I better = k == 0 ? ~I{} : (sum[o] > best[o]) | (sum[o] != sum[o]);
          best[o] = k == 0 ? sum[o] : select(better, sum[o], best[o]);
          which[o] = k == 0 ? I{} : (better ? (I{} + k) : which[o]);
        }
      }
      for (int o = 0; o < BLOCK; o++) {
        const int place = ((channel + o) * pooled + py) * pooled + px;
        out[place] = best[o];
        winner[place] = __builtin_convertvector(which[o], Byte);
      }
    }
  }
}

template <int BLOCK>
void convolve_some(const Convolution& c, int channel, const V* in, const V* weight, const V* bias, V* out,
                   Byte* winner) {
  switch (c.pool) {
    case 1: convolve_block<BLOCK, 1>(c, channel, in, weight, bias, out, winner); break;
    case 2: convolve_block<BLOCK, 2>(c, channel, in, weight, bias, out, winner); break;
    default: convolve_block_any<BLOCK>(c, channel, in, weight, bias, out, winner); break;
  }
}

// winner: which position of each pooling window was the largest, for the backward pass.
inline void convolve(const Convolution& c, const V* in, const V* weight, const V* bias, V* out, Byte* winner) {
  constexpr int BLOCK = LANES == 16 ? 4 : 2;  // 32 registers with AVX-512, 16 without
  int channel = 0;
  for (; channel + BLOCK <= c.outputs; channel += BLOCK)
    convolve_some<BLOCK>(c, channel, in, weight, bias, out, winner);
  if constexpr (BLOCK == 4)
    for (; channel + 2 <= c.outputs; channel += 2) convolve_some<2>(c, channel, in, weight, bias, out, winner);
  for (; channel < c.outputs; channel++) convolve_some<1>(c, channel, in, weight, bias, out, winner);
}

// --------------------------------------------------------------------------------------------------- backward

// Gradient of one channel's map before pooling: that of the pooled map at each window's winner, zero elsewhere.
inline void unpool(const Convolution& c, const V* gradient, const Byte* winner, V* dense) {
  const int pooled = c.pooled(), map = c.map();
  if (map % c.pool) std::fill(dense, dense + map * map, V{});  // rows and columns that no window covers
  for (int py = 0; py < pooled; py++) {
    for (int px = 0; px < pooled; px++) {
      V g = gradient[py * pooled + px];
      I which = __builtin_convertvector(winner[py * pooled + px], I);
      for (int k = 0; k < c.pool * c.pool; k++)
        dense[(py * c.pool + k / c.pool) * map + px * c.pool + k % c.pool] = select(which == k, g, V{});
    }
  }
}

// Add TILE x TILE positions' share to a kernel's gradient, which stays in registers. `in` and `dense` point at the
// tile's corner.
template <int K, int TILE>
INLINE void correlate_tile(const V* in, int size, const V* dense, int map, V (&sum)[K * K]) {
  V g[TILE * TILE];
  for (int t = 0; t < TILE * TILE; t++) g[t] = dense[(t / TILE) * map + t % TILE];
#pragma GCC unroll 8
  for (int y = 0; y < K + TILE - 1; y++) {
#pragma GCC unroll 8
    for (int x = 0; x < K + TILE - 1; x++) {
      V value = in[y * size + x];  // serves up to TILE * TILE taps
#pragma GCC unroll 8
      for (int t = 0; t < TILE * TILE; t++) {
        const int ky = y - t / TILE, kx = x - t % TILE;
        if (ky >= 0 && ky < K && kx >= 0 && kx < K) sum[ky * K + kx] += g[t] * value;
      }
    }
  }
}

// Gradient of the kernel that leads from one input channel to one output channel, added to `gradient`.
template <int K>
void kernel_gradient(const V* in, int size, const V* dense, int map, V* gradient) {
  V sum[K * K];
  for (int k = 0; k < K * K; k++) sum[k] = gradient[k];
  int y = 0;
  for (; y + 2 <= map; y += 2) {
    int x = 0;
    for (; x + 2 <= map; x += 2) correlate_tile<K, 2>(in + y * size + x, size, dense + y * map + x, map, sum);
    for (; x < map; x++) {
      correlate_tile<K, 1>(in + y * size + x, size, dense + y * map + x, map, sum);
      correlate_tile<K, 1>(in + (y + 1) * size + x, size, dense + (y + 1) * map + x, map, sum);
    }
  }
  for (; y < map; y++)
    for (int x = 0; x < map; x++) correlate_tile<K, 1>(in + y * size + x, size, dense + y * map + x, map, sum);
  for (int k = 0; k < K * K; k++) gradient[k] = sum[k];
}

inline void kernel_gradient_any(int kernel, const V* in, int size, const V* dense, int map, V* gradient) {
  for (int ky = 0; ky < kernel; ky++) {
    for (int kx = 0; kx < kernel; kx++) {
      V sum = gradient[ky * kernel + kx];
      for (int y = 0; y < map; y++)
        for (int x = 0; x < map; x++) sum += dense[y * map + x] * in[(y + ky) * size + x + kx];
      gradient[ky * kernel + kx] = sum;
    }
  }
}

// TILE neighbouring positions of the dense gradient's rows, spread over TILE + K - 1 entries of one row of the input
// gradient: all output channels and kernel rows add up in registers.
template <int K, int TILE>
void spread_tile(const Convolution& c, int input, int row, int column, const V* dense, const V* weight, V* out) {
  const int map = c.map(), taps = K * K;
  V sum[TILE + K - 1];
  for (int j = 0; j < TILE + K - 1; j++) sum[j] = out[j];
  const int first = std::max(0, row - map + 1), last = std::min(K - 1, row);
  for (int o = 0; o < c.outputs; o++) {
    for (int ky = first; ky <= last; ky++) {
      const V* g = dense + (o * map + row - ky) * map + column;
      const V* w = weight + (o * c.inputs + input) * taps + ky * K;
#pragma GCC unroll 8
      for (int x = 0; x < TILE; x++) {
        V value = g[x];
#pragma GCC unroll 8
        for (int kx = 0; kx < K; kx++) sum[x + kx] += value * w[kx];
      }
    }
  }
  for (int j = 0; j < TILE + K - 1; j++) out[j] = sum[j];
}

// Gradient of the input map, from the dense gradient of all output channels.
template <int K>
void input_gradient(const Convolution& c, const V* dense, const V* weight, V* gradient) {
  constexpr int TILE = LANES == 16 ? 8 : 4;
  const int map = c.map();
  std::fill(gradient, gradient + c.input_count(), V{});
  for (int i = 0; i < c.inputs; i++) {
    for (int row = 0; row < c.size; row++) {
      V* out = gradient + (i * c.size + row) * c.size;
      int column = 0;
      for (; column + TILE <= map; column += TILE)
        spread_tile<K, TILE>(c, i, row, column, dense, weight, out + column);
      for (; column < map; column++) spread_tile<K, 1>(c, i, row, column, dense, weight, out + column);
    }
  }
}

inline void input_gradient_any(const Convolution& c, const V* dense, const V* weight, V* gradient) {
  const int map = c.map(), kernel = c.kernel;
  std::fill(gradient, gradient + c.input_count(), V{});
  for (int o = 0; o < c.outputs; o++)
    for (int i = 0; i < c.inputs; i++)
      for (int y = 0; y < map; y++)
        for (int x = 0; x < map; x++) {
          V g = dense[(o * map + y) * map + x];
          const V* w = weight + (o * c.inputs + i) * kernel * kernel;
          for (int ky = 0; ky < kernel; ky++)
            for (int kx = 0; kx < kernel; kx++)
              gradient[(i * c.size + y + ky) * c.size + x + kx] += g * w[ky * kernel + kx];
        }
}

// The backward pass of a convolution and its pool. `dense` has room for the unpooled gradient of all output channels;
// `in_gradient` may be null: nobody needs the gradient of the image.
inline void convolve_backward(const Convolution& c, const V* in, const V* weight, const V* out_gradient,
                              const Byte* winner, V* dense, V* weight_gradient, V* bias_gradient, V* in_gradient) {
  const int map = c.map(), pooled = c.pooled(), taps = c.kernel * c.kernel;
  for (int o = 0; o < c.outputs; o++) {
    const V* g = out_gradient + o * pooled * pooled;
    V total = V{};
    for (int p = 0; p < pooled * pooled; p++) total += g[p];
    bias_gradient[o] += total;

    // without an input gradient to compute, one channel's dense map is enough and stays in the first-level cache
    V* map_gradient = in_gradient ? dense + o * map * map : dense;
    if (c.pool > 1)
      unpool(c, g, winner + o * pooled * pooled, map_gradient);
    else
      std::copy(g, g + map * map, map_gradient);
    for (int i = 0; i < c.inputs; i++) {
      const V* x = in + i * c.size * c.size;
      V* target = weight_gradient + (o * c.inputs + i) * taps;
      switch (c.kernel) {
        case 1: kernel_gradient<1>(x, c.size, map_gradient, map, target); break;
        case 2: kernel_gradient<2>(x, c.size, map_gradient, map, target); break;
        case 3: kernel_gradient<3>(x, c.size, map_gradient, map, target); break;
        case 4: kernel_gradient<4>(x, c.size, map_gradient, map, target); break;
        case 5: kernel_gradient<5>(x, c.size, map_gradient, map, target); break;
        default: kernel_gradient_any(c.kernel, x, c.size, map_gradient, map, target); break;
      }
    }
  }
  if (!in_gradient) return;
  switch (c.kernel) {
    case 1: input_gradient<1>(c, dense, weight, in_gradient); break;
    case 2: input_gradient<2>(c, dense, weight, in_gradient); break;
    case 3: input_gradient<3>(c, dense, weight, in_gradient); break;
    case 4: input_gradient<4>(c, dense, weight, in_gradient); break;
    case 5: input_gradient<5>(c, dense, weight, in_gradient); break;
    default: input_gradient_any(c, dense, weight, in_gradient); break;
  }
}

// ----------------------------------------------------------------------------------------------- fully connected

inline void multiply(int inputs, int outputs, const V* in, const V* weight, const V* bias, V* out) {
  for (int o = 0; o < outputs; o++) {
    V sum[4] = {bias[o], V{}, V{}, V{}};  // four chains hide the latency of one
    int i = 0;
    for (; i + 4 <= inputs; i += 4)
      for (int k = 0; k < 4; k++) sum[k] += weight[o * inputs + i + k] * in[i + k];
    for (; i < inputs; i++) sum[0] += weight[o * inputs + i] * in[i];
    out[o] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
}

inline void multiply_backward(int inputs, int outputs, const V* in, const V* weight, const V* out_gradient,
                              V* weight_gradient, V* bias_gradient, V* in_gradient) {
  if (in_gradient) std::fill(in_gradient, in_gradient + inputs, V{});
  for (int o = 0; o < outputs; o++) {
    V g = out_gradient[o];
    bias_gradient[o] += g;
    for (int i = 0; i < inputs; i++) weight_gradient[o * inputs + i] += g * in[i];
    if (in_gradient)
      for (int i = 0; i < inputs; i++) in_gradient[i] += g * weight[o * inputs + i];
  }
}
