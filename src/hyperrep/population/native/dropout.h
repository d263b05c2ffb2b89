// Dropout drawn by a hash of each network's key, the image's position in the epoch and the unit: the same whatever
// the engine (population/dropout.py has the formula in PyTorch), the group or the batch.
#pragma once

#include "vector.h"

typedef uint32_t U __attribute__((vector_size(4 * LANES)));

// C. Wellons' lowbias32.
INLINE U scramble(U x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

struct Dropout {
  U key, threshold;  // a unit whose 32 random bits lie below the threshold is dropped
  V scale;           // 1 / (1 - rate)

  // Factors of units `first_unit` ... of the image at this position of the epoch.
  void draw(uint32_t position, uint32_t first_unit, int count, V* factors) const {
    const U image = scramble(key ^ scramble(U{} + position));
    for (int i = 0; i < count; i++) {
      U bits = scramble(image + (first_unit + (uint32_t)i) * 0x9e3779b9u);
      factors[i] = select(bits >= threshold, scale, V{});
    }
  }
};
