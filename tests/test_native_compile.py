"""Compiling the C++ kernels on first use, and what of the compiled is loaded."""

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from native_helpers import LANES

from hyperrep.networks import SmallCNNConfig
from hyperrep.population import choose_engine
from hyperrep.population.native import NativeUnavailable
from hyperrep.population.native import compile as native_compile


COMPILED = native_compile.load_library()._name  # the real one; the compilers below copy it, which is quick


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native_compile.load_library.cache_clear()
    yield tmp_path / "cache" / "hyperrep" / "kernels"
    native_compile.load_library.cache_clear()


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Make a shell script the compiler; `$target` is the file it should write."""
    monkeypatch.setattr(native_compile, "COMPILERS", ())

    def become(script: str) -> None:
        path = tmp_path / "compiler"
        lines = ["#!/bin/sh", '[ "$1" = --version ] && echo 1.0 && exit']
        lines += ['while [ "$1" != -o ]; do shift; done; target=$2', f"echo >> {tmp_path / 'calls'}", script]
        path.write_text("\n".join(lines))
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    become(f"cp {COMPILED} $target")
    return become


def calls(tmp_path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


def load() -> int:
    native_compile.load_library.cache_clear()
    return native_compile.load_library().hyperrep_lanes()


def only(cache):
    (library,) = cache.iterdir()  # nothing is left over
    return library


def test_kernels_are_compiled_once_and_found_again(monkeypatch, cache):
    monkeypatch.setattr(native_compile, "FLAGS", tuple("-O0" if f == "-O3" else f for f in native_compile.FLAGS))
    assert load() == LANES
    changed = only(cache).stat().st_mtime_ns
    monkeypatch.setattr(native_compile, "_compile", lambda *_: pytest.fail("compiled a second time"))
    assert load() == LANES
    assert only(cache).stat().st_mtime_ns == changed


def test_other_sources_flags_or_processors_are_another_library(monkeypatch, cache, compiler, tmp_path):
    load()
    for name, value in [("FLAGS", ("-O1",)), ("FLAGS", ("-O2",)), ("_processor", lambda: "another processor")]:
        monkeypatch.setattr(native_compile, name, value)
        load()
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "engine.cpp").write_text("other")
    monkeypatch.setattr(native_compile, "SOURCES", tmp_path / "sources")
    load()
    assert len(list(cache.iterdir())) == 5
    load()
    assert calls(tmp_path) == 5


@pytest.mark.parametrize("umask", [0o022, 0o002, 0])
def test_nobody_else_may_write_to_the_folder_or_the_library(cache, compiler, umask):
    before = os.umask(umask)
    try:
        assert load() == LANES
    finally:
        os.umask(before)
    for path in (cache, only(cache)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_folder_that_others_could_write_to_is_closed_first(cache, compiler):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert load() == LANES
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


DAMAGE = {
    "truncated": lambda path: os.truncate(path, 20_000),  # which kills the process that loads it
    "empty": lambda path: os.truncate(path, 0),
    "other bytes": lambda path: path.write_bytes(path.read_bytes()[:-5000] + bytes(5000)),
    "others may write to it": lambda path: path.chmod(0o777),
    "a link": lambda path: path.unlink() or path.symlink_to(COMPILED),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_library_that_is_not_the_one_compiled_is_not_loaded_but_compiled_again(cache, compiler, tmp_path, damage):
    load()
    library = only(cache)
    shutil.copy(library, cache / "copy")  # this process has the file itself in its memory
    os.replace(cache / "copy", library)
    DAMAGE[damage](library)
    assert load() == LANES
    assert only(cache) == library  # replaced
    assert calls(tmp_path) == 2
    assert native_compile._is_sound(library)


def test_a_folder_of_another_user_is_not_used(monkeypatch, cache, compiler):
    load()
    me = os.geteuid()
    monkeypatch.setattr(native_compile.os, "geteuid", lambda: me + 1)
    with pytest.raises(NativeUnavailable, match="belongs to another user"):
        load()


def test_many_processes_may_compile_at_once(cache, compiler):
    compiler(f"sleep 0.2; cp {COMPILED} $target")
    with ThreadPoolExecutor(6) as pool:  # nothing is shared but the folder
        libraries = list(pool.map(lambda _: native_compile.load_library.__wrapped__(), range(6)))
    assert [library.hyperrep_lanes() for library in libraries] == [LANES] * 6
    assert native_compile._is_sound(only(cache))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -9 $$", "was killed by signal 9 on engine.cpp"),
        ("echo no space left on device >&2; exit 1", "failed on engine.cpp: no space left on device"),
        ("printf '\\377\\376' >&2; exit 1", "failed on engine.cpp"),
        ("exit 0", "No such file"),  # says it went well, and wrote nothing
        ("echo no library > $target", "set XDG_CACHE_HOME"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing_and_the_slower_engine(cache, compiler, script, said, caplog):
    compiler(script)
    with pytest.raises(NativeUnavailable, match=said) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert choose_engine("auto", SmallCNNConfig()).name == "vmap"
    assert "falling back to the vmap engine" in caplog.text
    assert [path for path in cache.iterdir() if not path.is_file()] == []


def test_a_program_that_is_none_and_quotes_that_do_not_end(monkeypatch, cache, tmp_path):
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    for name in (str(tmp_path / "text"), "'g++"):
        monkeypatch.setenv("CXX", name)
        with pytest.raises(NativeUnavailable):
            load()


def test_a_compiler_may_have_arguments(monkeypatch, cache, compiler, tmp_path):
    compiler(f"cp {COMPILED} $target")
    monkeypatch.setenv("CXX", f"/bin/sh {tmp_path / 'compiler'}")
    assert load() == LANES


def test_a_cache_that_cannot_be_written(monkeypatch, compiler, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NativeUnavailable, match="set XDG_CACHE_HOME") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_a_user_without_a_home(monkeypatch, compiler):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(native_compile.Path, "home", nowhere)
    with pytest.raises(NativeUnavailable, match="home directory"):
        load()
