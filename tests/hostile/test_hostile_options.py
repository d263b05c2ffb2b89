"""Hostile numbers and words for every option of every command, and folders that must not be touched."""

import os
import shutil
from pathlib import Path

import pytest
from handling import is_handled, is_refused, tree


NO_NUMBERS = ["nan", "inf", "-inf", "1e400", "", "abc", "0x10", "1,5", "[1]", "{}", "１２x"]
ODD_NUMBERS = ["-1", "0", "99999999999999999999", "1e18", "-0.0", "1_0", "true", "null"]

SAMPLE = "sample representation --output out --num-models 1"
BUILD = "zoo build --protocol digits --models 4 --epochs 0 --max-images 40 --output out"
OPTIONS = {
    SAMPLE: ["num-models", "top", "bandwidth", "seed"],
    BUILD: ["models", "epochs", "keep-epochs", "test-epochs", "first-seed", "max-images"],
    "evaluate finetune representation --zoo zoo --num-models 1 --epochs 0 --output out": [
        "num-models",
        "epochs",
        "top",
        "bandwidth",
        "seed",
    ],
}
WORDS = {
    SAMPLE: ["method", "variant", "prompts", "condition-images"],
    BUILD: ["protocol", "engine", "images"],
    "evaluate finetune representation --zoo zoo --num-models 1 --epochs 0 --output out": ["zoo", "engine", "images"],
}


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, names in OPTIONS.items() for option in names]
)
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_refused_for_every_option(place, hyperrep, command, option, value):
    before = tree(place)
    is_refused(hyperrep(*command.split(), f"--{option}={value}"))
    assert tree(place) == before


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, names in OPTIONS.items() for option in names]
)
@pytest.mark.parametrize("value", ODD_NUMBERS)
def test_odd_numbers_are_handled_for_every_option(place, hyperrep, command, option, value):
    is_handled(hyperrep(*command.split(), f"--{option}={value}"))


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, names in WORDS.items() for option in names]
)
@pytest.mark.parametrize("word", ["", "nonsense", "/", "a b/c d", "\udc80", "x" * 5000, "-", "~nobody/x"])
def test_unknown_words_are_refused(place, hyperrep, command, option, word):
    before = tree(place)
    is_refused(hyperrep(*command.split(), f"--{option}={word}"))
    assert tree(place) == before


SETTINGS = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "latent_size",
    "temperature",
    "contrast_weight",
    "hidden_dropout_prob",
    "layer_norm_eps",
    "initializer_range",
    "projection_num_layers",
    "projection_size",
    "weight_threshold",
    "erase_prob",
    "additive_noise",
    "multiplicative_noise",
    "behavior_weight",
    "behavior_images",
    "batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "learning_rate",
    "weight_decay",
    "warmup_steps",
    "max_grad_norm",
    "seed",
    "eval_epochs",
    "checkpoint_epochs",
    "early_stopping_patience",
]
TRAIN = "train settings.yaml --zoo zoo --output out"


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("value", [".nan", ".inf", "-1e999", "abc", "[1, 2]", "{a: 1}", "true"])
def test_what_is_no_number_is_refused_for_every_setting(place, hyperrep, setting, value):
    before = tree(place)
    is_refused(hyperrep(*TRAIN.split(), f"--{setting}", value), setting)
    assert tree(place) == before


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("value", ["-1", "0", "1000000000000000000", "1e300"])
def test_odd_numbers_are_handled_for_every_setting(place, hyperrep, setting, value):
    if setting == "num_train_epochs" and value == "0":
        value = "-2"
    is_handled(hyperrep(*TRAIN.split(), f"--{setting}", value))


@pytest.mark.parametrize(
    "setting",
    ["hidden_size", "num_hidden_layers", "latent_size", "intermediate_size", "num_train_epochs", "batch_size"],
)
def test_what_would_take_terabytes_or_years_is_refused_before_it_begins(place, hyperrep, setting):
    before = tree(place)
    is_refused(hyperrep(*TRAIN.split(), f"--{setting}", "1000000000000000000"))
    assert tree(place) == before


@pytest.mark.parametrize("rest", [["--seed"], ["3"], ["--seed", "1", "--seed", "2"], ["--=3"], ["--x.y", "1"]])
def test_malformed_settings_are_refused(place, hyperrep, rest):
    is_refused(hyperrep(*TRAIN.split(), *rest))
    assert not (place / "out").exists()


# ------------------------------------------------------------------------------------------------- folders


def web_project(folder: Path) -> None:
    (folder / "src").mkdir(parents=True)
    (folder / "index.json").write_text('{"name": "shop"}')
    (folder / "src" / "index.js").write_text("main()")


def swift_package(folder: Path) -> None:
    (folder / ".build" / "debug").mkdir(parents=True)
    (folder / "Package.swift").write_text("let package = Package()")
    (folder / ".build" / "settings.json").write_text("{}")


def project_with_checkpoints(folder: Path) -> None:
    (folder / "checkpoints" / "step-000100").mkdir(parents=True)
    (folder / "checkpoints" / "settings.json").write_text("{}")
    (folder / "checkpoints" / "step-000100" / "model.safetensors").write_text("weeks of work")


def somebody_elses_model(folder: Path) -> None:
    (folder / "results").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "results" / "finetune.jsonl").write_text("mine")


def somebody_elses_zoo(folder: Path) -> None:
    (folder / "zoo").mkdir(parents=True)
    (folder / "zoo_config.json").write_text("{}")
    (folder / "zoo" / "animals.csv").write_text("lion")


def hidden_files_only(folder: Path) -> None:
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")


def a_forged_manifest(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    (folder / ".hyperrep.json").write_text(
        '{"kind": "zoo", "files": {"thesis.tex": ["0"]}, "working": ["../representation/config.json"]}'
    )


def a_file(folder: Path) -> None:
    folder.write_text("mine")


def a_link_to_a_folder(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "index.json").write_text("{}")
    folder.symlink_to(elsewhere)


FOLDERS = [
    web_project,
    swift_package,
    project_with_checkpoints,
    somebody_elses_model,
    somebody_elses_zoo,
    hidden_files_only,
    a_forged_manifest,
    a_file,
    a_link_to_a_folder,
]
WRITERS = {
    "sample": "sample representation --num-models 1 --output out",
    "zoo build": "zoo build --protocol digits --models 4 --epochs 0 --max-images 40 --output out",
    "train": TRAIN,
}


@pytest.mark.parametrize("flag", ["", "--overwrite", "--resume"])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("make", FOLDERS)
def test_nothing_of_the_users_is_touched(place, hyperrep, make, writer, flag):
    if writer == "sample" and flag == "--resume":
        pytest.skip("sampling has no --resume")
    make(place / "out")
    before = tree(place)
    outcome = hyperrep(*WRITERS[writer].split(), *flag.split())
    if make is a_forged_manifest and flag == "--resume":
        is_handled(outcome)  # somebody marked the folder as ours: one may go on in it, beside what is there
        del before["out/.hyperrep.json"]
    else:
        is_refused(outcome, "else" if make is a_link_to_a_folder else "out")
    after = tree(place)
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize(
    "note", ["notes.txt", "model-00000/notes.txt", "data/mine.csv", "checkpoints/mine.safetensors"]
)
@pytest.mark.parametrize("writer", WRITERS)
def test_notes_beside_our_files_stop_an_overwrite(place, hyperrep, writer, note):
    assert hyperrep(*WRITERS[writer].split()).code == 0
    (place / "out" / note).parent.mkdir(exist_ok=True)
    (place / "out" / note).write_text("mine")
    before = tree(place)
    is_refused(hyperrep(*WRITERS[writer].split(), "--overwrite"), note)
    assert tree(place) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_was_changed_stops_an_overwrite(place, hyperrep, writer):
    assert hyperrep(*WRITERS[writer].split()).code == 0
    weights = next(path for path in sorted((place / "out").rglob("*")) if path.suffix in (".safetensors", ".parquet"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # fine-tuned: another content of the same length
    weights.write_bytes(content)
    before = tree(place)
    is_refused(hyperrep(*WRITERS[writer].split(), "--overwrite"), weights.name)
    assert tree(place) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_ours_is_overwritten_and_nothing_is_left_of_it(place, hyperrep, writer):
    assert hyperrep(*WRITERS[writer].split()).code == 0
    before = set(tree(place))
    assert hyperrep(*WRITERS[writer].split(), "--overwrite").code == 0
    assert set(tree(place)) == before


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "output", ["representation", "zoo", ".", "/", "settings.yaml", "settings.yaml/deep", "/proc/x"]
)
@pytest.mark.parametrize("flag", ["", "--overwrite"])
def test_outputs_that_are_something_else(place, hyperrep, writer, output, flag):
    if flag and (writer, output) in [("train", "representation"), ("zoo build", "zoo")]:
        pytest.skip("its own kind may be overwritten")
    before = tree(place)
    is_refused(hyperrep(*WRITERS[writer].replace("--output out", f"--output {output}").split(), *flag.split()))
    assert tree(place) == before


@pytest.mark.parametrize("flags", ["--resume --overwrite"])
@pytest.mark.parametrize("writer", ["zoo build", "train"])
def test_flags_that_exclude_each_other(place, hyperrep, writer, flags):
    is_refused(hyperrep(*WRITERS[writer].split(), *flags.split()))
    assert not (place / "out").exists()


def test_an_edited_card_stays(place, hyperrep):
    assert hyperrep("card", "representation").code == 0
    card = place / "representation" / "README.md"
    card.write_text(card.read_text() + "\nWritten by hand.\n")
    before = tree(place)
    is_refused(hyperrep("card", "representation"), "README.md")
    assert tree(place) == before


def test_the_images_a_zoo_is_built_from_are_not_its_output(place, hyperrep):
    from PIL import Image

    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = place / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(10):
                Image.effect_noise((28, 28), 50 + index).save(folder / f"{index}.png")
    before = tree(place)
    for output in ("images", "images/train", "images/zoo"):
        command = f"zoo build --protocol mnist --models 4 --epochs 0 --images images --output {output} --overwrite"
        is_handled(hyperrep(*command.split()))
        assert {name: content for name, content in tree(place).items() if name in before} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_that_may_not_be_written(place, hyperrep, writer):
    (place / "closed").mkdir(mode=0o500)
    is_refused(hyperrep(*WRITERS[writer].replace("--output out", "--output closed/out").split()), "closed")


@pytest.mark.parametrize("name", ["out put", "[out]", "ö✓", "-out", "out.", "*"])
@pytest.mark.parametrize("writer", WRITERS)
def test_folders_of_any_name_can_be_written(place, hyperrep, writer, name):
    words = [word if word != "out" else f"./{name}" for word in WRITERS[writer].split()]
    assert hyperrep(*words).code == 0
    assert (place / name).is_dir()
    shutil.rmtree(place / name)
