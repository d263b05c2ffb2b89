"""Compile the C++ kernels on first use, and keep the result in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path


COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-shared", "-fPIC", "-Wno-psabi")
TUNING = (("-march=native",), ())  # the second where the compiler refuses the first
SOURCES = Path(__file__).parent


class NativeUnavailable(RuntimeError):
    """The native engine cannot be used; the message says why."""


@cache
def load_library() -> ctypes.CDLL:
    """The compiled kernels.

    The file's name has a hash of the sources, the compiler and the processor, so that an update or another machine on
    a shared home compiles afresh; and one of its content, so that a damaged file is never loaded.

    Raises:
        NativeUnavailable: if there is no C++ compiler, it fails on our source, or there is no folder to keep the
            result in that only this user may write to.
    """
    if os.name != "posix":
        raise NativeUnavailable("the kernels are compiled on Linux and macOS only")
    sources = sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")])
    try:
        compiler = _find_compiler()
        version = _run([*compiler, "--version"]).stdout.splitlines()[:1]
        key = hashlib.sha256(repr((compiler, version, FLAGS, TUNING, _user_flags(), _processor())).encode())
        for path in sources:
            key.update(path.read_bytes())
        folder, name = _own_folder(), f"engine-{key.hexdigest()[:24]}"
        found = [path for path in sorted(folder.glob(f"{name}-*.so")) if _is_sound(path)]
        return ctypes.CDLL(str(found[0] if found else _compile(compiler, folder, name)))
    except (OSError, ValueError) as error:  # a read-only home, a full disk, one without programs; $CXX of odd quotes
        raise NativeUnavailable(
            f"{' '.join(str(error).split())}; set XDG_CACHE_HOME to a folder the kernels can be kept in"
        ) from error


def _find_compiler() -> list[str]:
    for name in (os.environ.get("CXX"), *COMPILERS):
        program, *arguments = shlex.split(name or "") or [""]  # CXX may be "ccache g++"
        if path := shutil.which(program):
            return [path, *arguments]
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


def _own_folder() -> Path:
    """The folder of the compiled kernels, which nobody but this user may write to: what lies there is executed."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyperrep" / "kernels"
    except RuntimeError as error:
        raise NativeUnavailable(f"{error} Set XDG_CACHE_HOME to a folder the kernels can be kept in") from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(0o700)  # of a folder that was there
    if not _is_only_ours(folder):
        raise NativeUnavailable(
            f"{folder} belongs to another user, or others may write to it, and what lies there would be executed; set "
            "XDG_CACHE_HOME to a folder of your own"
        )
    return folder


def _is_only_ours(path: Path) -> bool:
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_sound(library: Path) -> bool:
    """Whether it is the file that was compiled, whole, and nobody else's."""
    if library.is_symlink() or not library.is_file() or not _is_only_ours(library):
        return False
    return library.stem.endswith(f"-{_content_hash(library)}")


def _content_hash(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()[:24]


def _compile(compiler: list[str], folder: Path, name: str) -> Path:
    """Compile to a temporary name and rename, so that any number of processes may do so at once."""
    source = SOURCES / "engine.cpp"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        target = Path(temporary) / "engine.so"
        for tuning in TUNING:
            outcome = _run([*compiler, *FLAGS, *tuning, *_user_flags(), str(source), "-o", str(target)])
            if outcome.returncode == 0:
                target.chmod(0o700)  # whatever the umask
                return target.replace(folder / f"{name}-{_content_hash(target)}.so")
    how = f"was killed by signal {-outcome.returncode}" if outcome.returncode < 0 else "failed"
    last = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
    raise NativeUnavailable(f"{compiler[0]} {how} on {source.name}: {last}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
