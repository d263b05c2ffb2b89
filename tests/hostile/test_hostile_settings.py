"""Hostile settings: JSON files of a representation, a sampler, a zoo and a run, and YAML files of training."""

import json

import pytest
from handling import change_json, is_handled, is_refused, tree


FILES = {
    "representation/config.json": "sample representation --num-models 1 --output out",
    "representation/sampler/sampler_config.json": "sample representation --num-models 1 --output out",
    "zoo/zoo_config.json": "zoo info zoo",
}
DAMAGES = {
    "empty": b"",
    "blank": b"  \n",
    "cut": b'{"method": ',
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "text": b'"text"',
    "an empty object": b"{}",
    "another object": b'{"hello": "world"}',
    "not UTF-8": b'\xff\xfe{"a": 1}',
    "zeros": b"\x00" * 512,
    "deeply nested": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a number of 5,000 digits": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94.",
    "a page": b"<!doctype html><html>504 Gateway Time-out</html>",
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_settings_is_named(place, hyperrep, file, damage):
    (place / file).write_bytes(DAMAGES[damage])
    before = tree(place)
    is_refused(hyperrep(*FILES[file].split()))
    assert tree(place) == before


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("what", ["nothing", "a folder", "a link to nowhere", "a link to itself"])
def test_something_else_in_place_of_a_file_of_settings(place, hyperrep, file, what):
    path = place / file
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what == "a link to nowhere":
        path.symlink_to(place / "nowhere")
    elif what == "a link to itself":
        path.symlink_to(path)
    is_refused(hyperrep(*FILES[file].split()))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_setting_is_nan_or_infinite(place, hyperrep, file, number):
    path = place / file
    text = path.read_text().rstrip().removesuffix("}").rstrip()
    path.write_text(f'{text},\n  "layer_norm_eps": {number}, "bandwidth": {number}, "num_models": {number}\n}}')
    is_refused(hyperrep(*FILES[file].split()))


VALUES = [None, "text", -1, 0, 10**18, 2.5, True, [], [[]], {}, {"a": {"b": []}}, "../../etc/passwd", "é" * 300]


def values_of(file: str, keys: list[tuple[str, ...]]):
    return [pytest.param(file, key, i, id=f"{'.'.join(key)}-{i}") for key in keys for i in range(len(VALUES))]


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        *values_of(
            "representation/config.json",
            [
                ("layout",),
                ("network",),
                ("image_processor",),
                ("zoo",),
                ("aligned",),
                ("hidden_size",),
                ("num_hidden_layers",),
                ("num_attention_heads",),
                ("hidden_act",),
                ("latents_per",),
                ("latent_size",),
                ("temperature",),
                ("projection_num_layers",),
                ("dtype",),
                ("architectures",),
                ("model_type",),
                ("network", "conv_channels"),
                ("network", "model_type"),
            ],
        ),
        *values_of(
            "representation/sampler/sampler_config.json",
            [
                ("class_name",),
                ("method",),
                ("variant",),
                ("bandwidth",),
                ("top",),
                ("score",),
                ("hyperrep_version",),
                ("novel",),
            ],
        ),
        *values_of(
            "zoo/zoo_config.json",
            [
                ("network",),
                ("layout",),
                ("image_processor",),
                ("protocol",),
                ("images",),
                ("num_models",),
                ("epochs",),
                ("made_with",),
                ("network", "image_size"),
                ("novel",),
            ],
        ),
    ],
)
def test_any_value_in_any_place_is_handled(place, hyperrep, file, keys, value):
    change_json(place / file, *keys, to=VALUES[value])
    before = tree(place)
    outcome = hyperrep(*FILES[file].split())
    is_handled(outcome)
    if outcome.code:
        assert tree(place) == before


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("representation/config.json", ("hidden_size",), "text"),
        ("representation/config.json", ("hidden_size",), 10**18),
        ("representation/config.json", ("num_hidden_layers",), 10**18),
        ("representation/config.json", ("latent_size",), 10**18),
        ("representation/config.json", ("projection_num_layers",), 10**18),
        ("representation/config.json", ("layout",), [["convs.0.weight", [10**9, 10**9]]]),
        ("representation/config.json", ("layout",), [["convs.0.weight", [2, -3]]]),
        ("representation/config.json", ("layout",), [["convs.0.weight", [0, 3]]]),
        ("representation/config.json", ("layout",), [["convs.0.weight", "33"]]),
        ("representation/config.json", ("hidden_act",), "os.system"),
        ("representation/config.json", ("temperature",), 0),
        ("representation/sampler/sampler_config.json", ("class_name",), "KDSampler"),
        ("representation/sampler/sampler_config.json", ("bandwidth",), -0.1),
        ("representation/sampler/sampler_config.json", ("bandwidth",), "0.1"),
        ("representation/sampler/sampler_config.json", ("top",), 1.5),
        ("representation/sampler/sampler_config.json", ("variant",), "joined"),
        ("zoo/zoo_config.json", ("layout",), [["convs.0.weight", [10**9, 10**9, 9]]]),
        ("zoo/zoo_config.json", ("layout",), [["convs.0.weight", [1]], ["x", [2]]]),
        ("zoo/zoo_config.json", ("num_models",), -3),
        ("zoo/zoo_config.json", ("epochs",), ["1"]),
    ],
)
def test_values_that_cannot_be_are_refused(place, hyperrep, file, keys, value):
    change_json(place / file, *keys, to=value)
    is_refused(hyperrep(*FILES[file].split()))


@pytest.mark.parametrize("file", FILES)
def test_unknown_keys_of_our_own_files_are_named(place, hyperrep, file):
    if file.endswith("/config.json"):
        pytest.skip("transformers' configurations may hold keys of other libraries")
    change_json(place / file, "bandwith", to=1)
    is_refused(hyperrep(*FILES[file].split()), "bandwith")


YAML = {
    "empty": "",
    "a list": "- hidden_size: 16\n",
    "text": "hidden size",
    "tabs": "hidden_size:\t16\n\tlatent_size: 8\n",
    "not UTF-8": b"\xff\xfe\x00h",
    "zeros": b"\x00" * 64,
    "a tag that runs code": "hidden_size: !!python/object/apply:os.system ['touch owned']\n",
    "an unknown tag": "hidden_size: !size 16\n",
    "a key twice": "hidden_size: 16\nhidden_size: 32\n",
    "ten thousand million laughs": "a: &a [l, l]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(10)),
    "an alias of itself": "hidden_size: &a [*a]\n",
    "two documents": "hidden_size: 16\n---\nhidden_size: 32\n",
    "a key that is no text": "1: 2\n",
    "a key that is a list": "? [a]\n: 2\n",
    "nan": "learning_rate: .nan\n",
    "infinite": "weight_decay: .inf\n",
    "a date": "learning_rate: 2026-01-01\n",
    "another case": "Hidden_Size: 16\n",
    "a key of the model itself": "layout: []\n",
    "deeply nested": "a: " + "[" * 3000 + "]" * 3000,
}


@pytest.mark.parametrize("case", YAML)
def test_hostile_yaml_is_handled(place, hyperrep, case):
    content = YAML[case]
    (place / "x.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    outcome = hyperrep("train", "x.yaml", "--zoo", "zoo", "--output", "out")
    is_refused(outcome)  # none of them names epochs that the zoo has
    assert not (place / "out").exists()
    assert not (place / "owned").exists()


@pytest.mark.parametrize("path", ["missing.yaml", ".", "zoo", "settings.yaml/x", "nosuchpreset", "\udcff.yaml"])
def test_no_settings_file(place, hyperrep, path):
    is_refused(hyperrep("train", path, "--zoo", "zoo", "--output", "out"))
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results/training.json", "{"),
        ("results/training.json", '{"steps": []}'),
        ("results/finetune.jsonl", "{}\n"),
        ("results/finetune.jsonl", '{"what": "test_accuracy"'),
        ("results/finetune.jsonl", "\x00"),
        ("config.json", json.dumps({"model_type": "hyperrep", "layout": []})),
        ("config.json", json.dumps({"model_type": "bert"})),
        ("sampler/sampler_config.json", "[]"),
    ],
)
def test_a_card_of_damaged_files_is_handled(place, hyperrep, name, content):
    path = place / "representation" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    is_handled(hyperrep("card", "representation"))
