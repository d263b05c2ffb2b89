"""Compiling the C++ kernels on first use."""

import pytest
from native_helpers import LANES

from hyperrep.population.native import compile as native_compile


def test_kernels_are_compiled_once_and_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native_compile, "FLAGS", tuple("-O0" if f == "-O3" else f for f in native_compile.FLAGS))
    native_compile.load_library.cache_clear()
    try:
        assert native_compile.load_library().hyperrep_lanes() == LANES
        (library,) = tmp_path.rglob("*.so")
        changed = library.stat().st_mtime_ns
        native_compile.load_library.cache_clear()
        monkeypatch.setattr(native_compile, "_compile", lambda *_: pytest.fail("compiled a second time"))
        assert native_compile.load_library().hyperrep_lanes() == LANES
        assert library.stat().st_mtime_ns == changed
        assert [path.name for path in library.parent.iterdir()] == [library.name]  # no leftovers
    finally:
        native_compile.load_library.cache_clear()


def test_other_sources_or_flags_are_another_library(monkeypatch, tmp_path):
    names = []
    monkeypatch.setattr(native_compile, "_compile", lambda compiler, source, library: names.append(library.name))
    monkeypatch.setattr(native_compile.ctypes, "CDLL", lambda path: path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        for flags in [("-O1",), ("-O2",)]:
            monkeypatch.setattr(native_compile, "FLAGS", flags)
            native_compile.load_library.cache_clear()
            native_compile.load_library()
        monkeypatch.setattr(native_compile, "_processor", lambda: "another processor")
        native_compile.load_library.cache_clear()
        native_compile.load_library()
    finally:
        native_compile.load_library.cache_clear()
    assert len(set(names)) == 3
