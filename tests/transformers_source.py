"""transformers' own common tests, from an unpacked source distribution that TRANSFORMERS_SOURCE points to."""

import importlib
import os
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import transformers


PACKAGE = "transformers_source_tests"

# What these files import and the source distribution leaves out. None of it is for models such as ours.
MISSING = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils.test_configuration_utils": {
        "config_common_kwargs": {
            "return_dict": False,
            "output_hidden_states": True,
            "output_attentions": True,
            "dtype": "float16",
            "architectures": ["SomeModel"],
            "id2label": {0: "label"},
            "label2id": {"label": "0"},
            "problem_type": "regression",
        }
    },
    "fetch_hub_objects_for_ci": {"url_to_local_path": str},
}


def common_tests(name: str) -> types.ModuleType:
    """A module of transformers' tests, such as `test_modeling_common`; skips the calling module where it is not."""
    source = os.environ.get("TRANSFORMERS_SOURCE")
    if not source:
        pytest.skip(
            "TRANSFORMERS_SOURCE is not set to an unpacked source distribution of transformers (CONTRIBUTING.md says "
            "how)",
            allow_module_level=True,
        )
    folder = Path(source, "tests")
    if not (folder / f"{name}.py").is_file():
        pytest.fail(f"TRANSFORMERS_SOURCE: {folder} holds no {name}.py", pytrace=False)
    pytest.importorskip("parameterized")
    for path, contents in {PACKAGE: {"__path__": [str(folder)]}, **MISSING}.items():
        names = path.split(".")
        for i in range(1, len(names) + 1):
            part = ".".join(names[:i])
            sys.modules.setdefault(part, types.ModuleType(part))
        vars(sys.modules[path]).update(contents)
    # a second copy of the library is imported from where the tests lie in its repository; they lie elsewhere here
    with mock.patch("transformers.utils.direct_transformers_import", return_value=transformers):
        return importlib.import_module(f"{PACKAGE}.{name}")
