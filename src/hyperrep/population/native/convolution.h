// Convolution and max-pool, forward and backward, for LANES networks at once and one image each.
//
// Every array is an array of V: entry i holds number i of all LANES networks. Maps are (channels, height, width).
// All kernels here are bound by multiply-adds: a tile of sums stays in registers, so that each number loaded serves
// several.
#pragma once

#include <algorithm>

#include "vector.h"

// A convolution with stride 1 and no padding, and the max-pool after it.
struct Convolution {
  int inputs, size, outputs, kernel, pool;  // channels, height and width of the input map, channels, ...
  int map() const { return size - kernel + 1; }    // height and width before pooling
  int pooled() const { return map() / pool; }      // and after
  int covered() const { return pooled() * pool; }  // what pooling windows cover; the rest has no gradient
  int weights() const { return outputs * inputs * kernel * kernel; }
  int input_count() const { return inputs * size * size; }
  int output_count() const { return outputs * pooled() * pooled(); }
};

// ---------------------------------------------------------------------------------------------------- forward

// BLOCK output channels at HEIGHT x WIDTH neighbouring positions; `corner` is the input under the first.
template <int BLOCK, int HEIGHT, int WIDTH>
INLINE void correlate(const Convolution& c, const V* corner, const V* weight, const V* bias,
                      V (&sum)[BLOCK][HEIGHT * WIDTH]) {
  constexpr int POSITIONS = HEIGHT * WIDTH;
  const int taps = c.kernel * c.kernel;
  for (int o = 0; o < BLOCK; o++)
    for (int k = 0; k < POSITIONS; k++) sum[o][k] = bias[o];
  for (int i = 0; i < c.inputs; i++) {
    for (int ky = 0; ky < c.kernel; ky++) {
      for (int kx = 0; kx < c.kernel; kx++) {
        V x[POSITIONS];
        for (int k = 0; k < POSITIONS; k++)
          x[k] = corner[(i * c.size + ky + k / WIDTH) * c.size + kx + k % WIDTH];
        for (int o = 0; o < BLOCK; o++) {
          V tap = weight[(o * c.inputs + i) * taps + ky * c.kernel + kx];
          for (int k = 0; k < POSITIONS; k++) sum[o][k] += tap * x[k];
        }
      }
    }
  }
}

// Keep the larger of two values and its place in the window. The first of equals wins, and NaN over all, as in
// PyTorch.
INLINE void keep_larger(V value, int place, V& best, I& which) {
  Mask better = is_larger(value, best) | is_nan(value);
  best = choose(better, value, best);
  which = choose(better, I{} + place, which);
}

// BLOCK channels of a convolution and its pool. The map before pooling is never written.
template <int BLOCK>
void convolve_pooled(const Convolution& c, const V* in, const V* weight, const V* bias, V* out, Byte* winner) {
  const int pooled = c.pooled();
  for (int py = 0; py < pooled; py++) {
    for (int px = 0; px < pooled; px++) {
      const V* corner = in + py * c.pool * c.size + px * c.pool;
      V best[BLOCK] = {};
      I which[BLOCK] = {};
      if (c.pool == 2) {
        V sum[BLOCK][4];
        correlate<BLOCK, 2, 2>(c, corner, weight, bias, sum);
        for (int o = 0; o < BLOCK; o++) {
          best[o] = sum[o][0];
          for (int k = 1; k < 4; k++) keep_larger(sum[o][k], k, best[o], which[o]);
        }
      } else {
        for (int k = 0; k < c.pool * c.pool; k++) {
          V sum[BLOCK][1];
          correlate<BLOCK, 1, 1>(c, corner + k / c.pool * c.size + k % c.pool, weight, bias, sum);
          for (int o = 0; o < BLOCK; o++) {
            if (k == 0) best[o] = sum[o][0];
            keep_larger(sum[o][0], k, best[o], which[o]);
          }
        }
      }
      for (int o = 0; o < BLOCK; o++) {
        const int place = (o * pooled + py) * pooled + px;
        out[place] = best[o];
        winner[place] = narrow(which[o]);
      }
    }
  }
}

// BLOCK channels of a convolution without a pool, by WIDTH positions from `first` on; returns how far it came.
template <int BLOCK, int WIDTH>
INLINE int convolve_row(const Convolution& c, int first, const V* in, const V* weight, const V* bias, V* out) {
  const int map = c.map();
  for (; first + WIDTH <= map; first += WIDTH) {
    V sum[BLOCK][WIDTH];
    correlate<BLOCK, 1, WIDTH>(c, in + first, weight, bias, sum);
    for (int o = 0; o < BLOCK; o++)
      for (int k = 0; k < WIDTH; k++) out[o * map * map + first + k] = sum[o][k];
  }
  return first;
}

template <int BLOCK>
void convolve_plain(const Convolution& c, const V* in, const V* weight, const V* bias, V* out) {
  for (int y = 0; y < c.map(); y++) {
    const int column = convolve_row<BLOCK, 4>(c, 0, in + y * c.size, weight, bias, out + y * c.map());
    convolve_row<BLOCK, 1>(c, column, in + y * c.size, weight, bias, out + y * c.map());
  }
}

// The channels from `channel` on, by BLOCK; returns how far it came.
template <int BLOCK>
int convolve_channels(const Convolution& c, int channel, const V* in, const V* weight, const V* bias, V* out,
                      Byte* winner) {
  const int per_channel = c.inputs * c.kernel * c.kernel, places = c.pooled() * c.pooled();
  for (; channel + BLOCK <= c.outputs; channel += BLOCK) {
    const V *w = weight + channel * per_channel, *b = bias + channel;
    if (c.pool > 1)
      convolve_pooled<BLOCK>(c, in, w, b, out + channel * places, winner + channel * places);
    else
      convolve_plain<BLOCK>(c, in, w, b, out + channel * places);
  }
  return channel;
}

// winner: which position of each pooling window was the largest, for the backward pass.
inline void convolve(const Convolution& c, const V* in, const V* weight, const V* bias, V* out, Byte* winner) {
  constexpr int BLOCK = REGISTERS / 8;  // times four positions: half of the registers hold sums
  int channel = convolve_channels<BLOCK>(c, 0, in, weight, bias, out, winner);
  channel = convolve_channels<2>(c, channel, in, weight, bias, out, winner);
  convolve_channels<1>(c, channel, in, weight, bias, out, winner);
}

// ------------------------------------------------------------------------------- backward: gradient of the kernels

// Rows first_row ... first_row + ROWS - 1 of the gradient of a K x K kernel, after a pool of 2 x 2, from the pooled
// rows `begin` to `end`. Only a window's winner has a gradient, but the winner differs from lane to lane: choose the
// input row under it, and multiply by a gradient that is zero in the other column. That takes 4/5 of the time of
// multiplying by all four positions.
template <int K, int ROWS>
INLINE void pooled_gradient_rows(const Convolution& c, int first_row, int begin, int end, const V* in,
                                 const V* gradient, const Byte* winner, V* kernel_gradient) {
  V sum[ROWS][K];
  V* target = kernel_gradient + first_row * K;
  for (int k = 0; k < ROWS * K; k++) sum[k / K][k % K] = target[k];
  const int pooled = c.pooled();
  for (int py = begin; py < end; py++) {
    for (int px = 0; px < pooled; px++) {
      const V* corner = in + (2 * py + first_row) * c.size + 2 * px;
      V g = gradient[py * pooled + px];
      Mask right = has_bit(winner[py * pooled + px], 1), lower = has_bit(winner[py * pooled + px], 2);
      V left_gradient = choose(right, V{}, g), right_gradient = choose(right, g, V{});
#pragma GCC unroll 8
      for (int x = 0; x <= K; x++) {
        V above = corner[x];
#pragma GCC unroll 8
        for (int y = 0; y < ROWS; y++) {
          V below = corner[(y + 1) * c.size + x];
          V value = choose(lower, below, above);
          if (x < K) sum[y][x] += left_gradient * value;
          if (x > 0) sum[y][x - 1] += right_gradient * value;
          above = below;
        }
      }
    }
  }
  for (int k = 0; k < ROWS * K; k++) target[k] = sum[k / K][k % K];
}

// Gradient of all kernels, added to `weight_gradient`, by bands of the image that stay in the first-level cache.
template <int K>
void pooled_gradient(const Convolution& c, const V* in, const V* gradient, const Byte* winner, V* weight_gradient) {
  constexpr int ROWS = REGISTERS == 32 ? K : std::min(K, 2);
  const int pooled = c.pooled(), places = pooled * pooled;
  const int band = std::max(1, 256 / (2 * c.size));
  for (int begin = 0; begin < pooled; begin += band) {
    const int end = std::min(pooled, begin + band);
    for (int i = 0; i < c.inputs; i++) {
      for (int o = 0; o < c.outputs; o++) {
        const V *x = in + i * c.size * c.size, *g = gradient + o * places;
        V* target = weight_gradient + (o * c.inputs + i) * K * K;
        int row = 0;
        for (; row + ROWS <= K; row += ROWS)
          pooled_gradient_rows<K, ROWS>(c, row, begin, end, x, g, winner + o * places, target);
        for (; row < K; row++) pooled_gradient_rows<K, 1>(c, row, begin, end, x, g, winner + o * places, target);
      }
    }
  }
}

// The same from a dense gradient, that is one of the map before pooling, as far as windows cover it. Add TILE x TILE
// positions' share to a kernel's gradient, which stays in registers. `in` and `dense` point at the tile's corner.
template <int K, int TILE>
INLINE void dense_gradient_tile(const V* in, int size, const V* dense, int map, V (&sum)[K * K]) {
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

template <int K>
void dense_gradient(const Convolution& c, const V* in, const V* dense, V* weight_gradient) {
  const int size = c.size, map = c.covered();
  for (int o = 0; o < c.outputs; o++) {
    for (int i = 0; i < c.inputs; i++) {
      V* target = weight_gradient + (o * c.inputs + i) * K * K;
      V sum[K * K];
      for (int k = 0; k < K * K; k++) sum[k] = target[k];
      for (int y = 0; y < map; y += 2) {
        const V *x = in + (i * size + y) * size, *g = dense + (o * map + y) * map;
        int column = 0;
        if (y + 1 < map)
          for (; column + 2 <= map; column += 2) dense_gradient_tile<K, 2>(x + column, size, g + column, map, sum);
        for (; column < map; column++) {
          dense_gradient_tile<K, 1>(x + column, size, g + column, map, sum);
          if (y + 1 < map) dense_gradient_tile<K, 1>(x + size + column, size, g + map + column, map, sum);
        }
      }
      for (int k = 0; k < K * K; k++) target[k] = sum[k];
    }
  }
}

inline void dense_gradient_any(const Convolution& c, const V* in, const V* dense, V* weight_gradient) {
  const int map = c.covered(), taps = c.kernel * c.kernel;
  for (int o = 0; o < c.outputs; o++) {
    for (int i = 0; i < c.inputs; i++) {
      for (int k = 0; k < taps; k++) {
        const V* x = in + (i * c.size + k / c.kernel) * c.size + k % c.kernel;
        V sum = V{};
        for (int y = 0; y < map; y++)
          for (int column = 0; column < map; column++)
            sum += dense[(o * map + y) * map + column] * x[y * c.size + column];
        weight_gradient[(o * c.inputs + i) * taps + k] += sum;
      }
    }
  }
}

// ----------------------------------------------------------------------------- backward: gradient of the input map

// Gradient of the map before pooling: that of the pooled map at each window's winner, zero elsewhere.
inline void unpool(const Convolution& c, const V* gradient, const Byte* winner, V* dense) {
  const int pooled = c.pooled(), map = c.covered();
  for (int o = 0; o < c.outputs; o++) {
    for (int p = 0; p < pooled * pooled; p++) {
      V* corner = dense + (o * map + p / pooled * c.pool) * map + p % pooled * c.pool;
      V g = gradient[o * pooled * pooled + p];
      I which = widen(winner[o * pooled * pooled + p]);
      for (int k = 0; k < c.pool * c.pool; k++) corner[k / c.pool * map + k % c.pool] = select(which == k, g, V{});
    }
  }
}

// TILE neighbouring positions of the dense gradient's rows, spread over TILE + K - 1 entries of one row of the input
// gradient: all output channels and kernel rows add up in registers.
template <int K, int TILE>
INLINE void spread_tile(const Convolution& c, int input, int row, int column, const V* dense, const V* weight,
                        V* out) {
  const int map = c.covered(), taps = K * K;
  V sum[TILE + K - 1];
  for (int j = 0; j < TILE + K - 1; j++) sum[j] = out[j];
  const int first = std::max(0, row - map + 1), last = std::min(K - 1, row);
  for (int o = 0; o < c.outputs; o++) {
    for (int ky = first; ky <= last; ky++) {
      const V* g = dense + (o * map + row - ky) * map + column;
      const V* w = weight + (o * c.inputs + input) * taps + ky * K;
#pragma GCC unroll 16
      for (int x = 0; x < TILE; x++) {
        V value = g[x];
#pragma GCC unroll 8
        for (int kx = 0; kx < K; kx++) sum[x + kx] += value * w[kx];
      }
    }
  }
  for (int j = 0; j < TILE + K - 1; j++) out[j] = sum[j];
}

// A row from `column` on: as many tiles as fit, and the rest by tiles of half the size.
template <int K, int TILE>
void spread_row(const Convolution& c, int input, int row, int column, const V* dense, const V* weight, V* out) {
  for (; column + TILE <= c.covered(); column += TILE)
    spread_tile<K, TILE>(c, input, row, column, dense, weight, out + column);
  if constexpr (TILE > 1) spread_row<K, TILE / 2>(c, input, row, column, dense, weight, out);
}

template <int K>
void input_gradient(const Convolution& c, const V* dense, const V* weight, V* gradient) {
  std::fill(gradient, gradient + c.input_count(), V{});
  for (int i = 0; i < c.inputs; i++)
    for (int row = 0; row < c.size; row++)
      spread_row<K, REGISTERS / 4>(c, i, row, 0, dense, weight, gradient + (i * c.size + row) * c.size);
}

inline void input_gradient_any(const Convolution& c, const V* dense, const V* weight, V* gradient) {
  const int map = c.covered(), kernel = c.kernel;
  std::fill(gradient, gradient + c.input_count(), V{});
  for (int o = 0; o < c.outputs; o++) {
    for (int i = 0; i < c.inputs; i++) {
      const V* w = weight + (o * c.inputs + i) * kernel * kernel;
      for (int p = 0; p < map * map; p++) {
        V* corner = gradient + (i * c.size + p / map) * c.size + p % map;
        V g = dense[o * map * map + p];
        for (int k = 0; k < kernel * kernel; k++) corner[k / kernel * c.size + k % kernel] += g * w[k];
      }
    }
  }
}

// -------------------------------------------------------------------------------------------------- backward: both

// Call f(K) with the kernel size as a constant, or with 0 where we have no kernel of our own for that size.
template <class F>
INLINE void with_kernel_size(int kernel, F f) {
  switch (kernel) {
    case 1: return f(std::integral_constant<int, 1>());
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    default: return f(std::integral_constant<int, 0>());
  }
}

// `dense` has room for the gradient of the map before pooling; `in_gradient` may be null: nobody needs the gradient of
// the image.
inline void convolve_backward(const Convolution& c, const V* in, const V* weight, const V* gradient,
                              const Byte* winner, V* dense, V* weight_gradient, V* bias_gradient, V* in_gradient) {
  const int places = c.pooled() * c.pooled();
  for (int o = 0; o < c.outputs; o++) {
    V total = V{};
    for (int p = 0; p < places; p++) total += gradient[o * places + p];
    bias_gradient[o] += total;
  }
  with_kernel_size(c.kernel, [&](auto constant) {
    constexpr int K = constant;
    const bool choosing = K > 0 && c.pool == 2;
    if (c.pool > 1 && (in_gradient || !choosing)) unpool(c, gradient, winner, dense);
    const V* map_gradient = c.pool > 1 ? dense : gradient;
    if constexpr (K > 0) {
      if (choosing)
        pooled_gradient<K>(c, in, gradient, winner, weight_gradient);
      else
        dense_gradient<K>(c, in, map_gradient, weight_gradient);
      if (in_gradient) input_gradient<K>(c, map_gradient, weight, in_gradient);
    } else {
      dense_gradient_any(c, in, map_gradient, weight_gradient);
      if (in_gradient) input_gradient_any(c, map_gradient, weight, in_gradient);
    }
  });
}
