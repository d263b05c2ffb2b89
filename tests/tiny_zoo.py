"""A zoo that takes no training: random networks of a few hundred parameters, written as a real zoo folder."""

from pathlib import Path

import torch

from hyperrep.networks import SmallCNNConfig, SmallCNNForImageClassification, SmallCNNImageProcessor
from hyperrep.weights import WeightLayout
from hyperrep.zoo import Zoo, ZooConfig, ZooSplit
from hyperrep.zoo.split import METRICS


EPOCHS = [1, 2]
NETWORK = {
    "image_size": 6,
    "conv_channels": [3],
    "conv_kernel_sizes": [3],
    "pool_sizes": [2],
    "hidden_sizes": [5],
    "initializer": "kaiming_uniform",
    "num_labels": 4,
}


def tiny_network() -> SmallCNNConfig:
    return SmallCNNConfig(**NETWORK)


def tiny_layout() -> WeightLayout:
    return WeightLayout.of(SmallCNNForImageClassification(tiny_network()))


def write_tiny_zoo(folder: Path, seed: int = 0, scale: float = 0.3) -> Path:
    """Models that vary along a few random directions, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    layout = tiny_layout()
    directions = torch.randn(4, layout.num_params, generator=generator)
    splits, first = {}, 0
    for split, models in {"train": 20, "validation": 5, "test": 5}.items():
        rows = models * len(EPOCHS)
        weights = scale * torch.randn(rows, 4, generator=generator) @ directions
        model_id = torch.arange(first, first + models).repeat_interleave(len(EPOCHS))
        metrics = {name: torch.rand(rows, generator=generator) for name in METRICS}
        epoch = torch.tensor(EPOCHS).repeat(models)
        splits[split] = ZooSplit(weights, model_id, model_id, epoch, metrics)
        first += models
    config = ZooConfig(
        network=tiny_network().to_dict(),
        layout=layout.to_list(),
        image_processor=SmallCNNImageProcessor(image_size=6).to_dict(),
        protocol={"name": "tiny"},
        images={"name": "none"},
        num_models=30,
        epochs=EPOCHS,
        made_with={},
    )
    return Zoo("tiny", config, splits).save(folder)


# a hyper-representation small enough to train in seconds, with everything random switched on
TINY_SETTINGS = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "latent_size": 8,
    "projection_hidden_size": 16,
    "projection_num_layers": 1,
    "projection_size": 8,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "epochs": EPOCHS,
    "batch_size": 8,
    "num_train_epochs": 4,
    "warmup_steps": 5,
    "eval_epochs": 2,
    "checkpoint_epochs": 1,
}
