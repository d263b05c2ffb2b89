"""`hyperrep env`: what to say about a machine when something is reported."""

import os
import platform
import sys
from typing import Annotated, Any

import typer

from .output import print_json, print_text


LIBRARIES = ("hyperrep", "torch", "transformers", "datasets", "accelerate", "safetensors", "huggingface_hub")


def environment(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print versions, device and engine; nothing of the user's."""
    described = _describe()
    if as_json:
        print_json(described)
    else:
        for name, value in described.items():
            print_text(f"{name + ':':18} {value}")


def _describe() -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "encoding": getattr(sys.stdout, "encoding", None),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native engine": _native_engine(),
    }


def _native_engine() -> str:
    from hyperrep.networks import SmallCNNConfig
    from hyperrep.population.native import NativeEngine, NativeUnavailable

    try:
        NativeEngine.for_network(SmallCNNConfig())
    except NativeUnavailable as reason:
        return f"no: {reason}"
    return "yes"
