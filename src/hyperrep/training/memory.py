"""Memory that a training process needs, and keeps."""

import ctypes
import platform

import psutil
import torch

from ..errors import UserError
from ..representation import HyperRepConfig


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Keep freed blocks in this process, where the C library is glibc; nothing happens elsewhere.

    By default glibc gives large blocks back to the system, and every step pays for having the same pages mapped and
    zeroed again: about a fifth of a CPU step of the paper's model. For processes that do nothing but train: their
    memory stays at its peak.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def check_memory(config: HyperRepConfig, device: torch.device) -> None:
    """Whether the device can hold what training keeps of each parameter: itself, its gradient and two moments, in
    float32. What a batch needs comes on top.

    Raises:
        UserError: before anything is allocated, if it cannot.
    """
    count = config.model_size
    needed = count * 4 * 4
    if device.type == "cuda":
        there_is = torch.cuda.get_device_properties(device).total_memory
    else:
        there_is = psutil.virtual_memory().total
    if needed > there_is:
        raise UserError(
            f"a model of {count:,} parameters takes {needed / 2**30:,.1f} GiB to train; {device.type} has "
            f"{there_is / 2**30:,.1f} GiB. Lower hidden_size {config.hidden_size}, intermediate_size "
            f"{config.intermediate_size}, latent_size {config.latent_size}, num_hidden_layers "
            f"{config.num_hidden_layers} or the projection's sizes."
        )
