"""The app of `spaces/`: what it shows, from the pretrained representation in the tree, offline."""

import sys
import zipfile
from pathlib import Path

import pytest

from hyperrep import KDESampler
from hyperrep.errors import UserError


SPACES = Path(__file__).parent.parent / "spaces"
PRETRAINED = SPACES.parent / "model_cards" / "hyperrep-digits"
pytestmark = pytest.mark.skipif(
    not (PRETRAINED / "model.safetensors").exists(), reason="the pretrained representation is not in this tree"
)


@pytest.fixture(scope="module")
def app():
    sys.path.insert(0, str(SPACES))
    try:
        import show

        yield show
    finally:
        sys.path.remove(str(SPACES))
        sys.modules.pop("show", None)


def accuracy(entry: str) -> float:
    return float(entry.split(" ± ")[0])


def test_networks_are_drawn_tested_and_trained_beside_random_starts(app):
    shown = app.show(app.REPRESENTATIONS[0], "kde", target=1.0, count=8, seed=0)
    assert len(shown.networks) == 8
    (epoch, generated, random), (_, trained, random_trained) = shown.table
    assert epoch == "0"
    assert accuracy(generated) > accuracy(random) + 40
    assert accuracy(trained) > accuracy(random_trained) + 10
    assert "times as far from the nearest training" in shown.about
    assert len(shown.figure.axes) >= 2


def test_what_is_asked_for_decides_which_training_networks_are_drawn_from(app):
    sampler = KDESampler.from_pretrained(PRETRAINED / "sampler")
    means = [app.aimed(sampler, "kde", target) for target in (0.0, 0.5, 1.0)]
    means = [aimed.scores[aimed.chosen].mean().item() for aimed in means]
    assert means == sorted(means)
    assert means[0] < means[2]
    with pytest.raises(UserError, match=r"target is 1\.5"):
        app.aimed(sampler, "kde", 1.5)
    assert "kde" in app.methods()
    assert not {"noise", "flow"} & set(app.methods())


def test_the_page_is_made_and_its_button_works(app):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hyperrep[demo]'")
    import app as page

    try:
        assert page.build().fns
        figure, table, _, archive = page.draw(app.REPRESENTATIONS[0], "kde", 1.0, 4, 0)
        assert figure.axes
        assert len(table) == 2
        names = zipfile.ZipFile(archive).namelist()
        assert "index.json" in names
        assert "model-00003/model.safetensors" in names
    finally:
        sys.modules.pop("app", None)
