"""Compile the C++ kernels on first use, and keep the result in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path


COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-Wno-psabi")
TUNING = (("-march=native",), ())  # the second where the compiler refuses the first


class NativeUnavailable(RuntimeError):
    """The native engine cannot be used; the message says why."""


@cache
def load_library() -> ctypes.CDLL:
    """The compiled kernels.

    The file's name is a hash of the sources, the compiler and the processor, so that an update or another machine on
    a shared home compiles afresh.

    Raises:
        NativeUnavailable: if there is no C++ compiler, it fails on our source, or the cache cannot be written.
    """
    compiler = _find_compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[:1]
    folder = Path(__file__).parent
    sources = sorted([*folder.glob("*.h"), *folder.glob("*.cpp")])
    key = hashlib.sha256()
    how = repr((compiler, version, FLAGS, TUNING, _user_flags(), _processor()))
    for part in [*(path.read_bytes() for path in sources), how.encode()]:
        key.update(part)
    library = _cache_folder() / f"engine-{key.hexdigest()[:24]}.so"
    try:
        if not library.exists():
            _compile(compiler, folder / "engine.cpp", library)
        return ctypes.CDLL(str(library))
    except OSError as error:  # a read-only home, a full disk
        raise NativeUnavailable(f"{error}; set XDG_CACHE_HOME to a folder the kernels can be kept in") from error


def _find_compiler() -> str:
    for name in (os.environ.get("CXX"), *COMPILERS):
        if name and (path := shutil.which(name)):
            return path
    raise NativeUnavailable("no C++ compiler was found (looked for $CXX, c++, g++ and clang++)")


def _user_flags() -> list[str]:
    """Further flags, say `-march=haswell` to see how fast a processor without AVX-512 would be.

    Not $CXXFLAGS: conda sets that to an architecture of 2004.
    """
    return shlex.split(os.environ.get("HYPERREP_CXXFLAGS", ""))


def _processor() -> str:
    """The instructions this processor has: what -march=native depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return next((line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {platform.processor()}"


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "hyperrep"


def _compile(compiler: str, source: Path, library: Path) -> None:
    """Compile to a temporary name and rename, so that two processes may do so at once."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        target = Path(folder) / library.name
        for tuning in TUNING:
            command = [compiler, *FLAGS, *tuning, *_user_flags(), str(source), "-o", str(target)]
            outcome = subprocess.run(command, capture_output=True, text=True)
            if outcome.returncode == 0:
                target.replace(library)
                return
    last = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
    raise NativeUnavailable(f"{compiler} failed on {source.name}: {last}")
