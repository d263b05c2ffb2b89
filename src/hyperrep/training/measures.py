"""How well a hyper-representation does on networks it has not seen.

Three measures: the reconstruction error of weights; the accuracy of the reconstructed networks beside the originals';
and how much of a network's test accuracy a linear probe reads off its latent.
"""

from typing import Any

import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from transformers import PreTrainedConfig

from ..images import ImageData, ImageSplit
from ..population import Engine
from ..representation import HyperRepModel
from ..representation.batched import decode_rows, encode_rows
from ..representation.losses import layer_squared_errors, r_squared
from .data import TrainingData


TRAIN_SAMPLE = 256  # training rows that are evaluated, evenly spaced; held-out rows are all evaluated
VALIDATION_IMAGES = 2000  # that networks answer at each evaluation during training; the test images are all used


@torch.no_grad()
def evaluate_reconstruction(
    model: HyperRepModel, weights: Tensor, train_mean: Tensor, batch_size: int = 256
) -> dict[str, Any]:
    """Normalised reconstruction loss and R^2 on plain weights, without augmentation; no row is left out.

    The loss divides by each layer's variance whether or not training did, so that runs with and without layer-wise
    loss normalisation can be compared. The baseline of R^2 is the mean predictor: every network reconstructed as
    `train_mean`.

    Args:
        model ([`HyperRepModel`]): evaluated in `eval()` mode, and put back.
        weights (`Tensor`): (checkpoints, num_params), on any device.
        train_mean (`Tensor`): (num_params,), per-weight mean of the training split.
        batch_size (`int`, *optional*, defaults to 256).

    Returns:
        `dict`: `reconstruction_loss`, `r2`, and `r2_per_layer` by layer name, without those that are the same in all
        networks, such as the norms of networks that were not trained.
    """
    was_training = model.training
    model.eval()
    sizes, std = model.processor.layer_sizes, model.processor.layer_std
    errors = torch.zeros(len(sizes), dtype=torch.float64, device=std.device)
    baseline_errors = torch.zeros_like(errors)
    for batch in weights.split(batch_size if model.config.token_size is None else 1):
        batch = batch.to(std.device)
        reconstruction = model.decode(model.encode(batch, aligned=True))
        errors += layer_squared_errors(reconstruction, batch, sizes)
        baseline_errors += layer_squared_errors(train_mean.to(batch).expand_as(batch), batch, sizes)
    model.train(was_training)
    overall, per_layer = r_squared(errors, baseline_errors, std)
    return {
        "reconstruction_loss": float((errors / std.square()).sum() / weights.numel()),
        "r2": float(overall),
        "r2_per_layer": {
            name: float(value)
            for (name, _), value, varies in zip(model.config.parts, per_layer, baseline_errors > 0, strict=True)
            if varies
        },
    }


def probe_r2(train_latents: Tensor, train_values: Tensor, latents: Tensor, values: Tensor) -> float | None:
    """R^2 of a linear probe (ridge regression, alpha 1) that is fitted on training latents.

    Args:
        train_latents, latents (`Tensor`): (rows, latent_size).
        train_values, values (`Tensor`): (rows,), what the probe predicts; rows where it is NaN are left out.

    Returns:
        `float`: against the mean of `values`; `None` where they do not vary.
    """
    known, train_known = ~values.isnan(), ~train_values.isnan()
    values, latents = values[known].double(), latents[known]
    variation = (values - values.mean()).square().sum()
    if not train_known.any() or not variation > 0:
        return None
    probe = Ridge().fit(train_latents[train_known].double().numpy(), train_values[train_known].double().numpy())
    errors = values - torch.from_numpy(probe.predict(latents.double().numpy()))
    return float(1 - errors.square().sum() / variation)


class Evaluator:
    """All measures on rows of a zoo.

    Training and validation networks answer [`VALIDATION_IMAGES`] validation images, test networks the test images:
    what may choose a model has not seen the test images.

    Args:
        data ([`TrainingData`])
        network (`PreTrainedConfig`), engine ([`Engine`]), images ([`ImageData`]): to run networks with. All may be
            `None`: then accuracies are left out.
    """

    def __init__(
        self,
        data: TrainingData,
        network: PreTrainedConfig | None = None,
        engine: Engine | None = None,
        images: ImageData | None = None,
    ):
        self.data, self.network, self.engine, self.images = data, network, engine, images
        self.train_mean = data.train.mean(dim=0)
        sample = torch.linspace(0, len(data.train) - 1, min(TRAIN_SAMPLE, len(data.train))).long()
        self.rows = {
            "train_sample": data.train[sample] if len(sample) < len(data.train) else data.train,
            "validation": data.validation,
            "test": data.test,
        }
        self._originals: dict[str, dict[str, float]] = {}

    def __call__(self, model: HyperRepModel, *splits: str) -> dict[str, dict[str, Any]]:
        """
        Args:
            model ([`HyperRepModel`])
            splits (`str`): of `train_sample`, `validation` and `test`.

        Returns:
            `dict`: for each split, [`evaluate_reconstruction`]; `accuracy` (0 to 1) of the `original` and of the
            `reconstruction`, each with `mean`, `std` (ddof 0) and `n`; and, for held-out splits, `probe_r2`, how well
            a linear probe on latents predicts the networks' test accuracy.
        """
        results = {}
        train_latents = encode_rows(model, self.data.train, aligned=True)
        for split in splits:
            weights = self.rows[split]
            results[split] = evaluate_reconstruction(model, weights, self.train_mean)
            latents = encode_rows(model, weights, aligned=True)
            if self.images is not None:
                images = self.images.test if split == "test" else self.images.validation[:VALIDATION_IMAGES]
                if split not in self._originals:
                    self._originals[split] = self._accuracy(weights, images)
                reconstruction = self._accuracy(decode_rows(model, latents), images)
                results[split]["accuracy"] = {"original": self._originals[split], "reconstruction": reconstruction}
            if split != "train_sample":
                accuracies = self.data.test_accuracy
                r2 = probe_r2(train_latents, accuracies["train"], latents, accuracies[split])
                if r2 is not None:
                    results[split]["probe_r2"] = r2
        return results

    def _accuracy(self, weights: Tensor, images: ImageSplit) -> dict[str, float]:
        assert self.engine is not None
        assert self.network is not None
        values = self.engine.evaluate(self.network, weights, images.pixels, images.labels).accuracy.double()
        return {"mean": values.mean().item(), "std": values.std(correction=0).item(), "n": len(values)}


__all__ = ["Evaluator", "evaluate_reconstruction", "probe_r2"]
