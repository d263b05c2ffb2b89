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


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that SIGINT sets; a second SIGINT stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may have handlers
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


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


__all__ = ["interruptible", "memory_errors_explained"]
