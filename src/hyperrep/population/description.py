"""Small CNNs as compiled kernels read them."""

from ..networks import Network, SmallCNNConfig


ACTIVATION_CODES = {"tanh": 0, "relu": 1, "gelu": 2, "sigmoid": 3}


def small_cnn(network: Network) -> str | None:
    """Why kernels for small CNNs do not cover a network; `None` if they do."""
    if not isinstance(network, SmallCNNConfig):
        return f"it trains small CNNs, not a {type(network).__name__}; take vmap"
    if network.hidden_act not in ACTIVATION_CODES:
        return f"activation {network.hidden_act!r} is not one of {', '.join(ACTIVATION_CODES)}"
    return None


def describe(network: SmallCNNConfig) -> tuple[list[int], int]:
    """Number of convolutions, (inputs, size, outputs, kernel, pool) each, number of linear layers, (inputs, outputs)
    each; and the code of the activation."""
    channels, widths = [network.num_channels, *network.conv_channels], network.linear_sizes
    numbers = [len(network.conv_channels)]
    for i, (kernel, pool) in enumerate(zip(network.conv_kernel_sizes, network.pool_sizes, strict=True)):
        numbers += [channels[i], network.feature_sizes[i], channels[i + 1], kernel, pool]
    numbers.append(len(widths) - 1)
    for i in range(len(widths) - 1):
        numbers += [widths[i], widths[i + 1]]
    return numbers, ACTIVATION_CODES[network.hidden_act]
