"""Processes that a launcher would start, started one by one: so a test can kill them all, as torchrun's own workers
outlive a launcher that is killed."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Any


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """The same command `count` times, as the ranks of one run.

    Args:
        command: what to run.
        count: how many; one runs without any launcher's variables.
        environment: added to this process's own.
        output: where standard output and error go; discarded by default.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int = 1,
        environment: Mapping[str, str] | None = None,
        output: IO[Any] | int = subprocess.DEVNULL,
    ):
        shared = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | dict(environment or {})
        if count > 1:
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        self.processes = [
            subprocess.Popen(
                command,
                env=shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}),
                stdout=output,
                stderr=output,
            )
            for rank in range(count)
        ]

    def poll(self) -> int | None:
        """The worst exit status once all have ended, or once one has failed; `None` before."""
        codes = [process.poll() for process in self.processes]
        if any(codes):
            self.kill()
            return next(code for code in codes if code)
        return None if None in codes else 0

    def wait(self, timeout: float) -> int:
        """Exit status; kills them all, and raises `subprocess.TimeoutExpired`, if they take longer."""
        try:
            return max((process.wait(timeout) for process in self.processes), key=abs)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to those that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
