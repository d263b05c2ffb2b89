// One network's architecture, and where its numbers lie in shared memory, in constants: the compiler unrolls every loop
// over a kernel's taps, and reckons every index.
//
// All work is written as EACH(item, count): items that do not depend on each other, dealt out to the threads of the
// block; SYNC() between one lot and the next. No sum depends on which thread was first, so the same launch gives the
// same bytes. A C++ compiler takes the same files and runs the items one after the other: that is how the arithmetic is
// tested where there is no GPU.
#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define CONSTANT __host__ __device__ constexpr
#define EACH(item, count) for (int item = threadIdx.x; item < (count); item += THREADS)
#define SYNC() __syncthreads()
#else
#include <cmath>
#define DEVICE inline
#define CONSTANT constexpr
#define EACH(item, count) for (int item = 0; item < (count); item++)
#define SYNC()
#endif

typedef unsigned int Bits;
typedef unsigned char Byte;

struct Convolution {  // stride 1, no padding, and the max-pool after it
  int inputs, size, outputs, kernel, pool;
  CONSTANT int map() const { return size - kernel + 1; }  // height and width before pooling
  CONSTANT int pooled() const { return map() / pool; }
  CONSTANT int places() const { return pooled() * pooled(); }
  CONSTANT int weights() const { return outputs * inputs * kernel * kernel; }
  CONSTANT int padded() const { return size + kernel - 1; }  // the map's gradient with a border of zeros
  // Parts of all images' positions over which a kernel's gradient is first summed, so that there is work for all.
  CONSTANT int parts() const {
    const int rows = outputs * inputs * kernel, parts = THREADS / rows;
    return parts < 1 ? 1 : parts > 32 ? 32 : parts;
  }
};

struct Linear {
  int inputs, outputs;
};

constexpr int CONVOLUTIONS = SHAPE[0], LINEARS = SHAPE[1 + 5 * CONVOLUTIONS], LAYERS = CONVOLUTIONS + LINEARS;
constexpr int CLASSES = SHAPE[2 * LINEARS + 5 * CONVOLUTIONS + 1];

CONSTANT Convolution convolution(int layer) {
  const int at = 1 + 5 * layer;
  return {SHAPE[at], SHAPE[at + 1], SHAPE[at + 2], SHAPE[at + 3], SHAPE[at + 4]};
}

CONSTANT Linear linear(int layer) {
  const int at = 2 + 5 * CONVOLUTIONS + 2 * (layer - CONVOLUTIONS);
  return {SHAPE[at], SHAPE[at + 1]};
}

CONSTANT int larger(int a, int b) { return a > b ? a : b; }
CONSTANT int aligned(int count) { return (count + 3) / 4 * 4; }

// Numbers an image has after `layer` layers; 0 is the image itself.
CONSTANT int count(int layer) {
  if (layer > CONVOLUTIONS) return linear(layer - 1).outputs;
  if (layer > 0) return convolution(layer - 1).outputs * convolution(layer - 1).places();
  return CONVOLUTIONS > 0 ? convolution(0).inputs * convolution(0).size * convolution(0).size : linear(0).inputs;
}

CONSTANT int weights(int layer) {
  return layer < CONVOLUTIONS ? convolution(layer).weights() : linear(layer).inputs * linear(layer).outputs;
}

CONSTANT int outputs(int layer) { return layer < CONVOLUTIONS ? convolution(layer).outputs : linear(layer).outputs; }

CONSTANT int first_parameter(int layer) {
  int first = 0;
  for (int l = 0; l < layer; l++) first += weights(l) + outputs(l);
  return first;
}

// Of the hidden units, in forward order: what dropout's hash is asked for.
CONSTANT int first_unit(int layer) {
  int first = 0;
  for (int l = 1; l < layer; l++) first += count(l);
  return first;
}

constexpr int PARAMETERS = first_parameter(LAYERS), PIXELS = count(0);

// Shared memory, in floats. In training the values of a layer become, once nobody needs them, its gradient.
constexpr int WEIGHTS = 0, GRADIENT = WEIGHTS + aligned(PARAMETERS), VALUES = GRADIENT + aligned(PARAMETERS);
CONSTANT int value(int layer) {
  int at = VALUES;
  for (int l = 0; l < layer; l++) at += aligned(CAPACITY * count(l));
  return at;
}
constexpr int SLOPES = value(LAYERS + 1);  // of GELU: the others' slope follows from the value
CONSTANT int slope(int layer) {
  int at = SLOPES;
  for (int l = 1; l < layer; l++) at += aligned(CAPACITY * count(l));
  return at;
}
constexpr int SCRATCH = ACTIVATION == 2 ? slope(LAYERS) : SLOPES;
// Sums of a kernel's gradient by parts, and after them the gradient of the map before pooling.
CONSTANT int scratch() {
  int most = 3 * CAPACITY;  // losses and hits
  for (int l = 0; l < CONVOLUTIONS; l++) {
    const Convolution c = convolution(l);
    most = larger(most, c.parts() * (c.weights() + c.outputs));
    if (l > 0) most = larger(most, CAPACITY * c.outputs * c.padded() * c.padded());
  }
  return aligned(most);
}
constexpr int WINNERS = SCRATCH + scratch();  // bytes: which position of each pooling window was the largest
CONSTANT int winner(int layer) {
  int at = 4 * WINNERS;
  for (int l = 0; l < layer; l++) at += convolution(l).pool > 1 ? aligned(CAPACITY * count(l + 1)) : 0;
  return at;
}
constexpr int SHARED_BYTES = winner(CONVOLUTIONS);
