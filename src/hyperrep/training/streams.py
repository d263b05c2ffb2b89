"""Seeds of everything random in a training run: a stream of its own for each purpose."""

import hashlib
from typing import Literal


Purpose = Literal["weights", "order", "dropout", "augmentation", "behavior"]


def seed_of(purpose: Purpose, seed: int, *place: int) -> int:
    """The seed of one stream of random numbers in a run.

    It is a hash of a text that says purpose, seed and place, so that no two of them meet by construction: not those of
    two purposes, nor of epoch 3 and of step 3 on process 0, as sequences of numbers would that are padded with zeros.

    Args:
        purpose (`str`): what is drawn.
        seed (`int`): of the run.
        place (`int`): where in the run: an epoch; or a step and a process.

    Returns:
        `int`: in [0, 2^63). (torch's generator on a CPU uses 32 bits of it.)
    """
    text = " ".join(map(str, (purpose, seed, *place)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


__all__ = ["Purpose", "seed_of"]
