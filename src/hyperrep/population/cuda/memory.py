"""How much shared memory a block needs, and how many images fit: architecture.cuh lays the arrays out in this way."""

from .compile import Constants


GELU = 2
LARGEST_CAPACITY = 16  # images; more are no faster


def shared_bytes(constants: Constants) -> int:
    """Shared memory of a block, in bytes."""
    convolutions, linears = layers(constants.shape)
    capacity, threads = constants.capacity, constants.threads
    parameters = sum(outputs * inputs * kernel**2 + outputs for inputs, _, outputs, kernel, _ in convolutions)
    parameters += sum(inputs * outputs + outputs for inputs, outputs in linears)
    maps = [outputs * ((size - kernel + 1) // pool) ** 2 for _, size, outputs, kernel, pool in convolutions]
    image = convolutions[0][0] * convolutions[0][1] ** 2 if convolutions else linears[0][0]
    counts = [image, *maps, *(outputs for _, outputs in linears)]
    scratch = 3 * capacity
    for layer, (inputs, size, outputs, kernel, _) in enumerate(convolutions):
        parts = min(max(threads // (outputs * inputs * kernel), 1), 32)
        scratch = max(scratch, parts * (outputs * inputs * kernel**2 + outputs))
        if layer > 0:
            scratch = max(scratch, capacity * outputs * (size + kernel - 1) ** 2)
    floats = 2 * _aligned(parameters) + sum(_aligned(capacity * count) for count in counts) + _aligned(scratch)
    if constants.activation == GELU:
        floats += sum(_aligned(capacity * count) for count in counts[1:-1])
    winners = sum(_aligned(capacity * count) for count, c in zip(maps, convolutions, strict=True) if c[4] > 1)
    return 4 * floats + winners


def fitting(shape: tuple[int, ...], activation: int, threads: int, images: int, limit: int) -> Constants | None:
    """The constants by which the fewest parts of `images` images are worked on one after the other, within `limit`
    bytes; `None` if not even one image fits."""
    for parts in range(-(-images // min(images, LARGEST_CAPACITY)), images + 1):
        constants = Constants(shape, activation, threads, -(-images // parts))
        if shared_bytes(constants) <= limit:
            return constants
    return None


def layers(shape: tuple[int, ...]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Convolutions (inputs, size, outputs, kernel, pool) and linear layers (inputs, outputs)."""
    first_linear = 1 + 5 * shape[0]
    convolutions = [tuple(shape[at : at + 5]) for at in range(1, first_linear, 5)]
    return convolutions, [tuple(shape[at : at + 2]) for at in range(first_linear + 1, len(shape), 2)]


def _aligned(count: int) -> int:
    return -(-count // 4) * 4
