"""A generative adversarial network over latents (paper, S_GAN, of which no code was released)."""

import logging
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..errors import UserError
from .base import Shapes, settings_class
from .standard import Standardized, TrainedSampler, copying, dispersion


NOISE_SIZE, HIDDEN_SIZE, CRITIC_SIZES = 64, 256, (256, 512)
CRITIC_STEPS, PENALTY, BETAS, DECAY = 5, 10.0, (0.5, 0.9), 0.995
BATCH_SIZE, CHECK_EVERY = 50, 50

logger = logging.getLogger(__name__)


@settings_class
class GANSampler(TrainedSampler):
    r"""
    A small Wasserstein GAN with gradient penalty on standardised latents.

    The generator maps Gaussian noise of [`NOISE_SIZE`] numbers through one hidden layer, the critic has two and no
    batch norm; five critic steps to one of the generator, of which an exponential average is kept. A tenth of the
    networks is held out. What is kept is the step whose samples are most like them: dispersion near 1 and C_T near 0,
    not the one of the lowest loss.

    Args:
        steps (`int`, *optional*, defaults to 4000): of the generator.
        learning_rate (`float`, *optional*, defaults to 1e-4): of both.
        seed (`int`, *optional*, defaults to 0): of the training.
        top, worst, score: see [`AnchoredSampler`].
    """

    method: ClassVar[str] = "gan"
    state_shapes: ClassVar[Shapes] = {
        **TrainedSampler.state_shapes,
        "hidden.weight": (HIDDEN_SIZE, NOISE_SIZE),
        "hidden.bias": (HIDDEN_SIZE,),
        "output.weight": (None, HIDDEN_SIZE),
        "output.bias": (None,),
    }

    steps: int = 4000
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= 10**6:
            raise UserError(f"steps is {self.steps}; it must lie between 1 and 1,000,000.")
        if not 0 < self.learning_rate <= 1:
            raise UserError(f"learning_rate is {self.learning_rate}; it must be above 0 and at most 1.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must be 0 or more, and below 2^63.")

    def _trained(self, data: Standardized) -> dict[str, Tensor]:
        return _generator(data, self.steps, self.learning_rate, self.seed)

    def check_state(self) -> None:
        super().check_state()
        state = self.fitted()
        if {len(state[name]) for name in ("mean", "deviation", "output.weight", "output.bias")} != {self.latent_size}:
            raise UserError(f"the generator is not one of latents of {self.latent_size}.")

    def _sample(self, num_samples: int, generator: torch.Generator | None) -> Tensor:
        state = self.fitted()
        noise = torch.randn(num_samples, NOISE_SIZE, generator=generator)
        return _generated(noise, state) * state["deviation"] + state["mean"]


def _generated(noise: Tensor, generator: Mapping[str, Tensor]) -> Tensor:
    hidden = nn.functional.linear(noise, generator["hidden.weight"], generator["hidden.bias"]).relu()
    return nn.functional.linear(hidden, generator["output.weight"], generator["output.bias"])


def _generator(data: Standardized, steps: int, rate: float, seed: int) -> dict[str, Tensor]:
    """The generator's tensors."""
    draw = torch.Generator().manual_seed(seed)
    width = data.train.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {"hidden": nn.Linear(NOISE_SIZE, HIDDEN_SIZE), "output": nn.Linear(HIDDEN_SIZE, width)}
        sizes = (width, *CRITIC_SIZES, 1)
        layers = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)]
    critic = nn.Sequential(*(part for layer in layers for part in (layer, nn.LeakyReLU(0.2))))[:-1]
    generator = nn.ModuleDict(parts)
    weights = dict(generator.named_parameters())
    average = {name: tensor.detach().clone() for name, tensor in weights.items()}
    of_generator = torch.optim.Adam(generator.parameters(), lr=rate, betas=BETAS)
    of_critic = torch.optim.Adam(critic.parameters(), lr=rate, betas=BETAS)

    def noise(rows: int) -> Tensor:
        return torch.randn(rows, NOISE_SIZE, generator=draw)

    kept, best, found = average, float("inf"), ""
    check = noise(max(100, len(data.held_out)))
    for step in tqdm(range(1, steps + 1), desc="fitting gan", unit="step"):
        for _ in range(CRITIC_STEPS):
            real = data.train[torch.randint(len(data.train), (BATCH_SIZE,), generator=draw)]
            with torch.no_grad():
                fake = _generated(noise(BATCH_SIZE), weights)
            between = real.lerp(fake, torch.rand(BATCH_SIZE, 1, generator=draw)).requires_grad_()
            slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0].norm(dim=1)
            loss = critic(fake).mean() - critic(real).mean() + PENALTY * (slope - 1).square().mean()
            of_critic.zero_grad()
            loss.backward()
            of_critic.step()
        loss = -critic(_generated(noise(BATCH_SIZE), weights)).mean()
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        with torch.no_grad():
            for name, tensor in weights.items():
                average[name].lerp_(tensor, 1 - min(DECAY, step / (step + 10)))
            if step % CHECK_EVERY == 0 or step == steps:
                samples = _generated(check, average)
                spread, copies = dispersion(samples, data.train), copying(samples, data.train, data.held_out)
                unlike = abs(spread - 1) + abs(copies) / 10
                if unlike < best:
                    best, kept = unlike, {name: tensor.clone() for name, tensor in average.items()}
                    found = f"step {step}: dispersion {spread:.2f}, C_T {copies:.1f}"
    logger.info("gan: kept %s", found)
    return kept
