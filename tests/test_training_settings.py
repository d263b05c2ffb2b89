"""Settings: what a file, a preset and the command line may say, and what they are told otherwise."""

import pytest

from hyperrep.errors import UserError
from hyperrep.training import TrainingConfig, parse_overrides
from hyperrep.training.config import TYPES, presets, settings_file


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match="'hidden_sizze' is unknown; did you mean 'hidden_size'"):
        TrainingConfig.from_dict({"hidden_sizze": 64})
    with pytest.raises(UserError, match="'lerning_rate' is unknown; did you mean 'learning_rate'"):
        TrainingConfig.from_dict({"lerning_rate": 1e-3})


def test_what_the_zoo_decides_cannot_be_set():
    with pytest.raises(UserError, match="'layout' is unknown"):
        TrainingConfig.from_dict({"layout": []})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": "many"}, "'batch_size' expected int, got str"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"optimizer": "sgd"}, "'sgd' is unknown; choose from adam, adamw"),
        ({"hidden_size": 30}, "hidden_size 30 is no multiple of num_attention_heads 4"),
        ({"erase_scale": [0.1]}, "erase_scale is"),
        ({"epochs": []}, "epochs is empty"),
    ],
)
def test_a_wrong_value_is_one_sentence(values, message):
    with pytest.raises(UserError, match=message) as error:
        TrainingConfig.from_dict(values)
    assert "\n" not in str(error.value)


def test_yaml_and_overrides(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("learning_rate: 1e-3  # text in YAML 1.1\nlatent_size: 8\nbatch_size: 4\n")
    overrides = parse_overrides(["--batch-size", "16", "--permute=false", "--erase_scale", "[0, 0.1]"])
    config = TrainingConfig.from_yaml(path, overrides)
    assert (config.learning_rate, config.batch_size, config.permute) == (1e-3, 16, False)
    assert config.erase_scale == [0.0, 0.1]
    assert config.model == {"latent_size": 8}
    with pytest.raises(UserError, match="--seed has no value"):
        parse_overrides(["--seed"])
    with pytest.raises(UserError, match="there is no configuration file"):
        TrainingConfig.from_yaml(tmp_path / "nowhere.yaml")


# Presets


def test_presets_are_valid_and_known_by_their_names():
    assert presets() == ["digits", "mnist", "mnist-paper", "windows"]
    for name in presets():
        TrainingConfig.from_yaml(name)


def test_a_file_wins_over_a_preset_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert TrainingConfig.from_yaml("mnist") == TrainingConfig.from_yaml(settings_file("mnist"))
    (tmp_path / "digits").write_text("seed: 7")
    assert TrainingConfig.from_yaml("digits") == TrainingConfig(seed=7)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mnits", "did you mean 'mnist'? Presets are digits, mnist, mnist-paper, windows."),
        ("hyperrep_digits", "did you mean 'digits'?"),
        ("mnist.yaml", "there is no configuration file mnist.yaml"),
        ("./mnist", "there is no configuration file"),
        ("a" * 5000, "neither a file nor a preset"),
        ("", "neither a file nor a preset"),
    ],
)
def test_a_name_that_is_none(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        TrainingConfig.from_yaml(name)
    assert said in str(caught.value)


# Files that others wrote


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfeseed: 1", "no text in UTF-8"),
        (b"\tseed: 1", "not YAML"),
        (b"\x00", "not YAML"),
        (b"seed: 1\nseed: 2", "key 'seed' comes twice"),
        (b"epochs: &a [1]\nlog_with: *a", "alias *a is no plain value"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "alias *a"),
        (b"<<: {seed: 3}", "not YAML"),
        (b"seed: !!python/object/apply:os.system ['touch owned']", "python/object/apply:os.system"),
        (b"seed: 1\n---\nseed: 2", "single document"),
        (b"? [1]\n: 2", "not YAML"),
        (b"seed: 2020-99-99", "not YAML"),
        (b"[" * 100_000, "not YAML"),
        (b"seed: " + b"9" * 5000, "not YAML"),
        (b"#" * 2**21, "bytes"),
        (b"- seed", "holds a list"),
        (b"seed", "holds a str"),
        (b"1: 2", "key 1 is unknown"),
        (b"null: 2", "key None is unknown"),
        (b"model: {hidden_size: 8}", "key 'model' is unknown"),
        (b"seed: 99999999999999999999", "seed is 99999999999999999999; it must be at most 9223372036854775807"),
        (b"seed: -1", "seed is -1"),
        (b"batch_size: 64.0", "'batch_size' expected int, got float"),
        (b"batch_size: '64'", "'batch_size' expected int, got str"),
        (b"batch_size: [64]", "'batch_size' expected int, got list"),
        (b"epochs: 21", "'epochs' expected a list, got int"),
        (b"permute: 1", "'permute' expected bool, got int"),
        (b"optimizer: [adam]", "'optimizer' expected str, got list"),
        (b"seed: 2020-01-01", "'seed' expected int, got date"),
        (b"seed:", "'seed' expected int, got NoneType"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_a_file_that_is_refused_says_so_in_a_line_that_names_it(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        TrainingConfig.from_yaml("mine.yaml")
    assert str(caught.value).startswith("mine.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_folder_and_an_empty_file(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="there is no configuration file"):
        TrainingConfig.from_yaml(tmp_path / "folder.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert TrainingConfig.from_yaml(tmp_path / "empty.yaml") == TrainingConfig()


NUMBERS = [key for key, expected in TYPES.items() if "int" in str(expected) or "float" in str(expected)]


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_may_be_nan_infinite_huge_or_a_truth_value(key):
    whole = [key] if "[" in str(TYPES[key]) else key
    for bad in (float("nan"), float("inf"), -float("inf"), "nan", True, 10**20, 10**5000):
        with pytest.raises(UserError) as caught:
            TrainingConfig.from_dict({key: [bad] if isinstance(whole, list) else bad})
        assert key in str(caught.value)
        assert len(str(caught.value)) < 300
    assert len(NUMBERS) >= 35


def test_a_configuration_made_in_python_is_checked_as_well():
    with pytest.raises(UserError, match="learning_rate is nan"):
        TrainingConfig(learning_rate=float("nan"))
    with pytest.raises(UserError, match="temperature is inf"):
        TrainingConfig(model={"temperature": float("inf")})


def test_what_yaml_reads_as_something_else_is_what_was_meant(tmp_path):
    (tmp_path / "c.yaml").write_text("mixed_precision: no\nlayer_norm_eps: 1\nerase_scale: [0, 1]\nseed: 0x10\n")
    config = TrainingConfig.from_yaml(tmp_path / "c.yaml", parse_overrides(["--mixed_precision", "no"]))
    assert (config.mixed_precision, config.model["layer_norm_eps"]) == ("no", 1.0)
    assert (config.erase_scale, config.seed) == ([0.0, 1.0], 16)


# The command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--learning-rate=nan"], "learning_rate is nan"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", "99999999999999999999"], "seed is 99999999999999999999"),
        (["--lerning-rate", "1"], "key 'lerning_rate' is unknown; did you mean 'learning_rate'"),
        (["--seed", "1", "--seed=2"], "--seed is given twice"),
        (["--batch-size", "1", "--batch_size=2"], "--batch_size is given twice"),
        (["--epochs", "[21"], "--epochs [21 is not YAML"),
        (["--seed", "!!python/name:os.system"], "is not YAML"),
        (["--seed="], "'seed' expected int, got NoneType"),
        (["--=1"], "key '' is unknown"),
        (["-s", "1"], "'-s' stands alone"),
    ],
    ids=" ".join,
)
def test_an_override_that_is_refused(arguments, said):
    with pytest.raises(UserError) as caught:
        TrainingConfig.from_yaml("digits", parse_overrides(arguments))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
