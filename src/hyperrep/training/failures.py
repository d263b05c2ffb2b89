"""What may end a run early, and what its user is told."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import UserError
from .config import TrainingConfig


CPU_OUT_OF_MEMORY = ("not enough memory", "DefaultCPUAllocator")  # a plain RuntimeError there


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and has written a checkpoint.

    Args:
        message (`str`): says how to go on.
        signal (`int`): that asked for it.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class StopRequest:
    """Whether SIGINT (Ctrl-C) or SIGTERM (`kill`, a scheduler that needs the machine) has come, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None


@contextmanager
def interruptible() -> Iterator[StopRequest]:
    """A request that SIGINT and SIGTERM fill in; a second one stops at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may have handlers
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, _: Any) -> None:
        request.signal = number
        restore()

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield request
    finally:
        restore()


@contextmanager
def memory_errors_explained(config: TrainingConfig) -> Iterator[None]:
    """Turns running out of memory, on a GPU or a CPU, into a [`UserError`] that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not out_of_memory and not any(mark in str(error) for mark in CPU_OUT_OF_MEMORY):
            raise
        raise UserError(
            f"out of memory with batch_size {config.batch_size} and gradient_accumulation_steps "
            f"{config.gradient_accumulation_steps}; lower batch_size or raise gradient_accumulation_steps, and start "
            "anew with --overwrite."
        ) from error


__all__ = ["Interrupted", "StopRequest", "interruptible", "memory_errors_explained"]
