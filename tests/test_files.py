"""One door for files from outside, one writer of folders that never touches what it did not write."""

import dataclasses
import json
import os

import pytest
import torch
from huggingface_hub.dataclasses import strict
from safetensors.torch import save_file

from hyperrep.errors import UserError
from hyperrep.files import check_output, construct, output_folder, read_json, read_json_lines, read_tensors


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def ours(tmp_path):
    """A folder of ours with a file, a file in a subfolder and a working file."""
    path = tmp_path / "out"
    with output_folder(path, "zoo") as output:
        output.write_text("a.txt", "one")
        output.write_json("sub/b.json", {"x": 1})
        output.write("work/c.bin", lambda file: file.write_bytes(b"shard"), working=True)
    return path


def test_a_claimed_folder_holds_what_was_written_and_no_lock(ours):
    assert set(tree(ours)) == {"a.txt", "sub/b.json", "work/c.bin", ".hyperrep.json"}


@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
def test_a_folder_of_somebody_else_is_refused_and_stays(tmp_path, mode):
    (tmp_path / "project" / ".build").mkdir(parents=True)
    (tmp_path / "project" / "index.json").write_text("{}")
    before = tree(tmp_path)
    with (
        pytest.raises(UserError, match="was not written by hyperrep"),
        output_folder(tmp_path / "project", "zoo", mode),
    ):
        pass
    assert tree(tmp_path) == before


def test_a_folder_of_another_kind_is_refused(ours):
    with pytest.raises(UserError, match="networks"), output_folder(ours, "networks", "overwrite"):
        pass


def test_overwriting_removes_what_is_ours_and_its_folders(ours):
    (ours / "work" / "c.bin").write_bytes(b"half")  # working files are ours whatever they hold
    with output_folder(ours, "zoo", "overwrite") as output:
        output.clear()
        output.write_text("new.txt", "two")
    assert set(tree(ours)) == {"new.txt", ".hyperrep.json"}
    assert not (ours / "sub").exists()


@pytest.mark.parametrize("place", ["notes.txt", "sub/notes.txt", ".git/config"])
def test_overwriting_refuses_beside_a_file_of_the_users(ours, place):
    (ours / place).parent.mkdir(exist_ok=True)
    (ours / place).write_text("mine")
    before = tree(ours)
    with pytest.raises(UserError, match=place), output_folder(ours, "zoo", "overwrite") as output:
        output.clear()
    assert tree(ours) == before


def test_a_file_that_was_changed_is_the_users(ours):
    (ours / "a.txt").write_text("uno")
    with pytest.raises(UserError, match=r"a\.txt"):
        check_output(ours, "zoo", "overwrite")
    with output_folder(ours, "zoo", "resume") as output:
        with pytest.raises(UserError, match="not replaced"):
            output.write_text("a.txt", "two")
        output.clear()
    assert (ours / "a.txt").read_text() == "uno"


def test_links_are_neither_followed_nor_replaced(ours, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.json").write_text((ours / "sub" / "b.json").read_text())
    (ours / "sub" / "b.json").unlink()
    (ours / "sub").rmdir()
    (ours / "sub").symlink_to(outside)
    with pytest.raises(UserError, match="sub"):
        check_output(ours, "zoo", "overwrite")
    with output_folder(ours, "zoo", "resume") as output:
        output.clear()
    assert (outside / "b.json").exists()


def test_a_manifest_that_names_files_elsewhere_removes_none(ours, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    manifest = json.loads((ours / ".hyperrep.json").read_text())
    manifest["working"] = ["../victim.txt", str(victim)]
    (ours / ".hyperrep.json").write_text(json.dumps(manifest))
    with output_folder(ours, "zoo", "resume") as output:
        output.remove("../victim.txt", str(victim))
        output.clear()
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"kind": "zoo"}', '{"kind":"zoo","files":[1],"working":[]}'])
def test_a_damaged_manifest_owns_nothing(ours, damage):
    (ours / ".hyperrep.json").write_text(damage)
    before = tree(ours)
    with pytest.raises(UserError, match="not written by hyperrep"), output_folder(ours, "zoo", "overwrite"):
        pass
    assert tree(ours) == before


def test_an_error_leaves_nothing_half_written(ours):
    def fail(path):
        path.write_text("half")
        raise RuntimeError("no")

    before = tree(ours)
    with output_folder(ours, "zoo", "resume") as output:
        with pytest.raises(RuntimeError):
            output.write("d.txt", fail)
        with pytest.raises(RuntimeError), output.staging(replace=True) as stage:
            fail(stage / "e.txt")
    assert tree(ours) == before


def test_what_is_staged_comes_together_and_replaces_what_was_ours(ours):
    with output_folder(ours, "zoo", "overwrite") as output, output.staging(replace=True) as stage:
        (stage / "deep").mkdir()
        (stage / "deep" / "x.txt").write_text("x")
        (stage / "a.txt").write_text("new")
        assert (ours / "a.txt").read_text() == "one"
    assert set(tree(ours)) == {"deep/x.txt", "a.txt", ".hyperrep.json"}
    check_output(ours, "zoo", "overwrite")


def test_what_a_killed_run_left_is_removed(ours):
    (ours / "sub" / ".b.json.77.hyperrep-tmp").write_text("half")
    (ours / ".hyperrep-stage-abc.hyperrep-tmp").mkdir()
    (ours / ".hyperrep-stage-abc.hyperrep-tmp" / "x").write_text("half")
    with output_folder(ours, "zoo", "resume"):
        pass
    assert set(tree(ours)) == {"a.txt", "sub/b.json", "work/c.bin", ".hyperrep.json"}


def test_two_runs_into_one_folder(ours):
    said = pytest.raises(UserError, match="another run is writing")
    with output_folder(ours, "zoo", "resume"), said, output_folder(ours, "zoo", "resume"):
        pass
    check_output(ours, "zoo", "resume")


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with pytest.raises(RuntimeError), output_folder(tmp_path / "deep" / "out", "zoo"):
        raise RuntimeError
    assert not (tmp_path / "deep" / "out").exists()


def test_adding_to_a_strangers_folder_replaces_nothing_of_theirs(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with output_folder(tmp_path, "representation", "add") as output:
        with pytest.raises(UserError, match="not replaced"):
            output.write_text("README.md", "ours")
        output.write_text("results/x.jsonl", "{}")
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "results" / "x.jsonl").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        check_output(tmp_path / "closed" / "out", "zoo", "new")


def test_adding_does_not_change_what_a_folder_is(ours):
    with output_folder(ours, "representation", "add") as output:
        output.write_text("results/x.jsonl", "{}")
    check_output(ours, "zoo", "overwrite")


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "out").write_text("x")
    for path in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(UserError, match=r"is a file|is no folder"):
            check_output(path, "zoo", "new")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[1]", "holds a list"),
        (b"null", "holds a NoneType"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is not a number"),
        (b'{"a": 1, "a": 2}', "'a' comes twice"),
        (b"\xff\xfe{}", "no JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
    ],
)
def test_json_that_is_refused(tmp_path, content, said):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(caught.value)


def test_json_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_json(path)


@strict
@dataclasses.dataclass
class Settings:
    size: int
    rate: float = 0.5

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1.")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": 1, "rat": 0.1}, "did you mean 'rate'"),
        ({}, "lacks size"),
        ({"size": "x"}, "size"),
        ({"size": None}, "size"),
        ({"size": 0}, "size is 0"),
        ({"size": 1, "rate": [0.1]}, "rate"),
    ],
)
def test_settings_that_are_refused(values, said):
    with pytest.raises(UserError, match=said) as caught:
        construct(Settings, values, "x.json")
    assert str(caught.value).startswith("x.json")


def test_settings_that_fit():
    assert construct(Settings, {"size": 3}, "x.json") == Settings(3)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"a": torch.zeros(2, 3)}, "holds tensors a; a, b are needed"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(1)}, "a, b, c"),
        ({"a": torch.zeros(2, 4), "b": torch.zeros(2)}, "a has shape"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2, 1)}, "b has shape"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(2).long()}, "floating-point"),
        ({"a": torch.full((2, 3), torch.nan), "b": torch.zeros(2)}, "NaN or infinite"),
        ({"a": torch.full((2, 3), 1e300, dtype=torch.float64), "b": torch.zeros(2)}, "NaN or infinite"),
    ],
)
def test_tensors_that_are_refused(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=said):
        read_tensors(tmp_path / "x.safetensors", {"a": (None, 3), "b": (None,)})


def test_tensor_files_that_are_damaged(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, path)
    assert torch.equal(read_tensors(path, {"a": (2, 3)})["a"], torch.arange(6.0).reshape(2, 3))
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1], b"\xff" * len(whole), b"\x80\x02}q\x00."):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged"):
            read_tensors(path, {"a": (2, 3)})
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_tensors(path, {"a": (2, 3)})


def test_lines_of_json_are_read_with_their_places(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_json_lines(path) == [(f"{path}, line 1,", {"a": 1}), (f"{path}, line 3,", {"a": 2})]
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2, is damaged"):
        read_json_lines(path)


def test_names_can_be_checked_before_long_work(ours):
    with output_folder(ours, "zoo", "add") as output:
        output.check_replaceable("a.txt", "new.txt")
        (ours / "a.txt").write_text("uno")
        with pytest.raises(UserError, match=r"a\.txt was not written by hyperrep, or was changed"):
            output.check_replaceable("new.txt", "a.txt")
