"""The README's Python blocks, run in their order as a new user would, against a Hub on loopback."""

import os
import re
import subprocess
import sys
from pathlib import Path

from fake_hub import FakeHub

from hyperrep import HyperRepPipeline
from hyperrep.images import load_images
from hyperrep.pipeline import fit_sampler
from hyperrep.population import choose_engine
from hyperrep.training import TrainingConfig, train
from hyperrep.zoo import ZooSettings, build_zoo, get_protocol


ROOT = Path(__file__).parent.parent
QUICK = {"num_train_epochs": 1, "behavior_images": 2}


def test_the_blocks_load_sample_train_and_publish(tmp_path):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(blocks) == 6

    # what the blocks find on "the Hub": local folders of the same name
    protocol = get_protocol("digits")
    images = load_images("digits", protocol.processor(), protocol.validation_fraction, max_images=100)
    zoo = tmp_path / "org" / "cnn-zoo-digits"
    network = protocol.network_config(images.classes)
    settings = ZooSettings(protocol, models=20, epochs=25, keep_epochs=(0, 21, 22, 23, 24, 25))
    build_zoo(settings, images, choose_engine("auto", network), zoo)
    config = TrainingConfig.from_yaml("digits", QUICK)
    train(config, zoo, tmp_path / "org" / "hyperrep-digits")
    fit_sampler(tmp_path / "org" / "hyperrep-digits", zoo)

    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")  # the blocks run in a clone

    # the training block takes minutes as it stands
    script = "\n".join(blocks).replace('from_yaml("digits")', f'from_yaml("digits", {QUICK})')
    assert str(QUICK) in script
    with FakeHub() as hub:
        environment = os.environ | hub.environment(tmp_path / "hf")
        outcome = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "samples" / "model-00049" / "model.safetensors").exists()
    assert HyperRepPipeline.from_pretrained(tmp_path / "my-representation")(2).weights.shape == (2, 2464)
    published = hub.files("model", "you/my-representation")
    assert {"README.md", "config.json", "model.safetensors", "sampler/sampler.safetensors"} <= set(published)
