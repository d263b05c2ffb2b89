"""Flow matching over the neuron tokens of latents."""

import logging
import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from tqdm.auto import tqdm

from ..errors import UserError
from .base import Shapes, settings_class
from .standard import Standardized, TrainedSampler
from .velocity import NULL, VelocityNetwork, velocity_shapes


BATCH_SIZE, DROPPED = 128, 0.1
LEARNING_RATE, WARMUP, DECAY = 1e-3, 50, 0.99
CHECK_EVERY, PATIENCE, DRAWS = 25, 6, 8  # held-out loss: every so many steps, in so many noisy copies of each latent
STEPS_PER_LATENT = 20  # beyond this the velocity collapses or memorises (DeepWeightFlow)

logger = logging.getLogger(__name__)


@settings_class
class FlowSampler(TrainedSampler):
    r"""
    Flow matching: a transformer learns the velocity that carries Gaussian noise to latents, conditioned on accuracy.

    Every neuron of the latent is a token (see `places` in [`Sampler.fit`]), so that the density is a joint one over
    neurons. Standardised latents, fresh noise at each step, straight paths, squared error of the velocity; AdamW,
    warm-up and cosine, an exponential average of the weights. A tenth of the networks is held out, and what is kept is
    the average with the lowest loss on them.

    Args:
        hidden_size (`int`, *optional*, defaults to 128), num_layers (`int`, *optional*, defaults to 4): of the
            transformer.
        steps (`int`, *optional*, defaults to 600): at most; fewer where there are few latents ([`STEPS_PER_LATENT`]),
            or the held-out loss rises.
        seed (`int`, *optional*, defaults to 0): of the training.
        quantile (`float`, *optional*): the accuracy asked for when drawing, as a share of the training networks that
            are worse. By default each sample is asked for another one, so that together they are as good as those.
        guidance (`float`, *optional*, defaults to 1): how far the velocity goes towards what is asked for, and away
            from what is not (classifier-free guidance); 1 is the conditional velocity itself.
        temperature (`float`, *optional*, defaults to 1): standard deviation of the noise that is carried to latents.
            Below 1, samples are nearer to what is commonest, and to one another; at 0 they differ by what is asked for
            alone.
        solver_steps (`int`, *optional*, defaults to 25): of Heun's method when drawing.
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "flow"
    label: ClassVar[str] = "Flow"
    of_drawing: ClassVar[tuple[str, ...]] = ("quantile", "guidance", "temperature", "solver_steps")

    hidden_size: int = 128
    num_layers: int = 4
    steps: int = 600
    seed: int = 0
    quantile: float | int | None = None
    guidance: float | int = 1.0
    temperature: float | int = 1.0
    solver_steps: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("hidden_size", 8, 4096),
            ("num_layers", 1, 64),
            ("steps", 1, 10**6),
            ("seed", 0, 2**63 - 1),
            ("guidance", 0, 100),
            ("temperature", 0, 10),
            ("solver_steps", 1, 10_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)}; it must lie between {low:,} and {high:,}.")
        if self.hidden_size % 8:
            raise UserError(f"hidden_size is {self.hidden_size}; it must be a multiple of 8.")
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise UserError(f"quantile is {self.quantile}; it must lie between 0 and 1.")

    @property
    def state_shapes(self) -> Shapes:  # type: ignore[override]
        return {**TrainedSampler.state_shapes, **velocity_shapes(self.hidden_size, self.num_layers)}

    def _trained(self, data: Standardized) -> dict[str, Tensor]:
        return _velocity(self, data, quantiles_of(self.scores[self.chosen]), tokens_of(self.places))

    def check_state(self) -> None:
        super().check_state()
        state = self.fitted()
        num_tokens = tokens_of(self.places)
        width, sizes = self.latent_size // num_tokens, state["positions"].shape
        if {len(state["mean"]), len(state["deviation"])} != {self.latent_size} or sizes[0] != num_tokens:
            raise UserError(f"the velocity is not one of latents of {self.latent_size} in {num_tokens} tokens.")
        if state["inputs.weight"].shape[1] != width or len(state["outputs.weight"]) != width:
            raise UserError(f"the velocity is not one of tokens of {width}.")

    @torch.no_grad()
    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        state, num_tokens = self.fitted(), tokens_of(self.places)
        network = VelocityNetwork(num_tokens, self.latent_size // num_tokens, self.hidden_size, self.num_layers)
        network.load_state_dict({name: state[name] for name in velocity_shapes(self.hidden_size, self.num_layers)})
        noise = torch.randn(num_samples, num_tokens, self.latent_size // num_tokens, generator=generator)
        points = self.temperature * noise
        asked = torch.rand(num_samples, generator=generator)
        if self.quantile is not None:
            asked = torch.full_like(asked, self.quantile)

        def velocity(points: Tensor, time: float) -> Tensor:
            times = torch.full((num_samples,), time)
            found = network(points, times, asked)
            if self.guidance == 1:
                return found
            plain = network(points, times, torch.full_like(asked, NULL))
            return plain + self.guidance * (found - plain)

        step = 1 / self.solver_steps
        for i in range(self.solver_steps):  # Heun
            slope = velocity(points, i * step)
            ahead = velocity(points + step * slope, (i + 1) * step)
            points = points + step / 2 * (slope + ahead)
        return points.flatten(1) * state["deviation"] + state["mean"]


def tokens_of(places: Tensor) -> int:
    """How many tokens a latent has: its neurons, each with as many numbers, one after the other.

    Raises:
        UserError: if they have not.
    """
    neurons, counts = places[:, 1].unique_consecutive(return_counts=True)
    if len(neurons.unique()) < len(neurons) or len(counts.unique()) > 1:
        raise UserError("a flow needs neurons with as many numbers each, such as latents have, and weights have not.")
    return len(neurons)


def quantiles_of(scores: Tensor) -> Tensor:
    """The share of scores (rows,) that lie below each, 0 to 1; alike ones share their mean."""
    from scipy.stats import rankdata  # a second, that nobody who draws should wait

    return torch.from_numpy((rankdata(scores.numpy()) - 0.5) / len(scores)).float()


def _velocity(settings: FlowSampler, data: Standardized, quantiles: Tensor, num_tokens: int) -> dict[str, Tensor]:
    """The average of the velocity's weights that does best on the held-out latents."""
    draw = torch.Generator().manual_seed(settings.seed)
    width = data.train.shape[1] // num_tokens
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = VelocityNetwork(num_tokens, width, settings.hidden_size, settings.num_layers)
    latents, of_train = data.train.unflatten(1, (num_tokens, width)), quantiles[data.train_rows]
    held_out = data.held_out.unflatten(1, (num_tokens, width)).repeat(DRAWS, 1, 1)
    check = (torch.rand(len(held_out), generator=draw), torch.randn(held_out.shape, generator=draw))
    of_held_out = quantiles[data.held_out_rows].repeat(DRAWS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    weights: dict[str, Tensor] = dict(network.named_parameters())
    average = {name: tensor.detach().clone() for name, tensor in weights.items()}
    steps = min(settings.steps, STEPS_PER_LATENT * len(latents))

    def loss_of(weights: dict[str, Tensor], targets: Tensor, times: Tensor, noise: Tensor, asked: Tensor) -> Tensor:
        points = noise.lerp(targets, times[:, None, None])
        found = functional_call(network, weights, (points, times, asked))
        return (found - (targets - noise)).square().mean()

    kept, best, best_step, progress = average, math.inf, 0, tqdm(range(1, steps + 1), desc="fitting flow", unit="step")
    for step in progress:
        rate = min(1, step / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        rows = torch.randint(len(latents), (BATCH_SIZE,), generator=draw)
        dropped = torch.rand(BATCH_SIZE, generator=draw) < DROPPED
        noise = torch.randn(BATCH_SIZE, num_tokens, width, generator=draw)
        asked = of_train[rows].masked_fill(dropped, NULL)
        loss = loss_of(weights, latents[rows], torch.rand(BATCH_SIZE, generator=draw), noise, asked)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, tensor in weights.items():
                average[name].lerp_(tensor, 1 - min(DECAY, step / (step + 10)))
            if step % CHECK_EVERY == 0 or step == steps:
                value = loss_of(average, held_out, *check, of_held_out).item()
                progress.set_postfix(held_out=f"{value:.4f}", refresh=False)
                if value < best:
                    best, best_step = value, step
                    kept = {name: tensor.clone() for name, tensor in average.items()}
                elif step - best_step >= PATIENCE * CHECK_EVERY:
                    break
    logger.info("flow: kept step %d of %d, held-out loss %.4f", best_step, step, best)
    return kept
