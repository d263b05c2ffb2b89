"""The CUDA engine where there is no GPU: a C++ compiler takes the same kernels, and runs their items one by one."""

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hyperrep.population.cuda import CudaEngine
from hyperrep.population.cuda.compile import Constants, to_c
from hyperrep.population.native.compile import _find_compiler


SHARED_MEMORY = 227 << 10  # of an H100's block


@cache
def compiled(constants: Constants) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernels.cpp").write_text(constants.source())
        # GCC 12 gets pools wrong with -O1
        command = [*_find_compiler(), "-std=c++17", "-O2", "-w", "-shared", "-fPIC", "kernels.cpp", "-o", "kernels.so"]
        subprocess.run(command, cwd=folder, check=True)
        return ctypes.CDLL(str(Path(folder) / "kernels.so"))


class EmulatedCudaEngine(CudaEngine):
    def __init__(self):
        self.device, self.processors, self.shared_memory = torch.device("cpu"), 132, SHARED_MEMORY
        self.threads, self.models_at_once = 512, 1056

    def _kernels(self, constants: Constants):
        library = compiled(constants)

        def launch(name: str, grid: tuple[int, int], *arguments: Tensor | float) -> None:
            getattr(library, name)(*map(to_c, (grid[0], *arguments)))

        return launch
