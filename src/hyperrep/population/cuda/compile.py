"""Kernels from source at run time, by the compiler (NVRTC) that comes with PyTorch and CUDA's driver: no CUDA toolkit
is needed."""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


FOLDER = Path(__file__).parent
SOURCES = ("architecture.cuh", "functions.cuh", "forward.cuh", "backward.cuh", "kernels.cu")
NAMES = ("hyperrep_train", "hyperrep_test")
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # of the driver's function attributes


class CudaUnavailable(RuntimeError):
    """There is no GPU for the CUDA engine, or it cannot do what it is asked for."""


@dataclass(frozen=True)
class Constants:
    """What the kernels are compiled for.

    Attributes:
        shape (`tuple[int, ...]`): convolutions and linear layers, as kernels.cu reads them.
        activation (`int`): code of the activation.
        threads (`int`): of a block.
        capacity (`int`): images in shared memory at once.
    """

    shape: tuple[int, ...]
    activation: int
    threads: int
    capacity: int

    def source(self) -> str:
        return (
            f"constexpr int SHAPE[] = {{{', '.join(map(str, self.shape))}}};\n"
            f"constexpr int ACTIVATION = {self.activation}, THREADS = {self.threads}, CAPACITY = {self.capacity};\n"
        ) + "".join(f'#line 1 "{name}"\n{(FOLDER / name).read_text(encoding="utf-8")}' for name in SOURCES)


class Kernels:
    """Loaded kernels of one architecture, on one GPU.

    Args:
        constants ([`Constants`])
        shared_bytes (`int`): shared memory of a block.
        device (`torch.device`)

    Raises:
        CudaUnavailable: if they cannot be compiled or loaded.
    """

    def __init__(self, constants: Constants, shared_bytes: int, device: torch.device):
        self.constants, self.shared_bytes, self.device = constants, shared_bytes, device
        major, minor = torch.cuda.get_device_capability(device)
        binary = compiled(constants.source(), f"sm_{major}{minor}")
        torch.zeros(1, device=device)  # the module is loaded into PyTorch's own context
        self.driver = _library("libcuda.so.1", "nvcuda.dll")
        with torch.cuda.device(device):
            module = ctypes.c_void_p()
            self._check(self.driver.cuModuleLoadData(ctypes.byref(module), binary))
            self.functions = {name: self._function(module, name) for name in NAMES}

    def _function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._check(self.driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
        self._check(
            self.driver.cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, ctypes.c_int(self.shared_bytes))
        )
        return function

    def __call__(self, name: str, grid: tuple[int, int], *arguments: Tensor | float) -> None:
        """Start a kernel: tensors go as pointers, whole numbers as int, others as double."""
        values: list[Any] = [to_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        with torch.cuda.device(self.device):
            blocks, threads = (*grid, 1), (self.constants.threads, 1, 1)
            launch = (self.functions[name], *blocks, *threads, self.shared_bytes, stream, pointers, None)
            self._check(self.driver.cuLaunchKernel(*launch))

    def _check(self, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self.driver.cuGetErrorString(status, ctypes.byref(text))
            raise CudaUnavailable(f"CUDA: {(text.value or b'unknown error').decode()}")


@cache
def compiled(source: str, architecture: str) -> bytes:
    """Machine code (a cubin) for `sm_90`, say.

    Raises:
        CudaUnavailable: if PyTorch came without the compiler, or with the compiler's message.
    """
    version = (torch.version.cuda or "0").split(".")[0]
    nvrtc = _library(f"libnvrtc.so.{version}", f"nvrtc64_{version}0_0.dll")
    program = ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None):
        raise CudaUnavailable("NVRTC cannot create a program")
    try:
        options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if status:
            raise CudaUnavailable(f"the kernels do not compile for {architecture}: {log.decode(errors='replace')}")
        return _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(size_of: Any, read: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.raw


def _library(*names: str) -> ctypes.CDLL:
    reasons = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    raise CudaUnavailable(reasons[0])


def to_c(value: Tensor | float) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_double:
    """An argument of the kernels."""
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_double(value)
