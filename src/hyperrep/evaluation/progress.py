"""Finished populations of an evaluation, kept until all are, so that an interrupted one goes on where it was."""

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from huggingface_hub.dataclasses import strict

from ..errors import UserError
from ..files import OutputFolder, construct, read_json


logger = logging.getLogger(__name__)


@strict
@dataclass
class Outcome:
    """What fine-tuning one population gave.

    Attributes:
        settings (`dict`): everything that decides the rest.
        test_accuracy (`list[list[float]]`): (epochs + 1, models), 0 to 1; before fine-tuning first.
        nearest_training_similarity, nearest_sample_similarity (`list[float]`): (models,), before fine-tuning; the
            latter is empty for a single network, which has no sibling.
        ensemble_accuracy (`float`): of all the networks' vote, before fine-tuning.
        seconds (`float`)
    """

    settings: dict[str, Any]
    test_accuracy: list[list[float]]
    nearest_training_similarity: list[float]
    nearest_sample_similarity: list[float]
    ensemble_accuracy: float
    seconds: float

    def __post_init__(self):
        models = len(self.nearest_training_similarity)
        lengths = {len(accuracy) for accuracy in self.test_accuracy}
        if lengths != {models} or len(self.nearest_sample_similarity) != (models if models > 1 else 0):
            raise UserError("the populations of one outcome differ in size.")


class Progress:
    """
    Args:
        output ([`OutputFolder`]): held by the evaluation.
        folder (`str`): name of a folder in it, for the files.
    """

    def __init__(self, output: OutputFolder, folder: str):
        self.output, self.folder = output, folder

    def check(self, populations: list[str]) -> None:
        """Whether files of these populations can be written.

        Raises:
            UserError: if one is there that is not ours.
        """
        self.output.check_replaceable(*map(self._name, populations))

    def read(self, population: str, settings: dict[str, Any], epochs: int) -> Outcome | None:
        """What an interrupted run left for this population, if it was the same population; `None` if it is damaged."""
        path = self.output.path / self._name(population)
        if not path.exists():
            return None
        try:
            outcome = construct(Outcome, read_json(path), path)
        except UserError as error:
            logger.warning("%s This population is fine-tuned again.", error)
            return None
        same = outcome.settings == settings and len(outcome.test_accuracy) == epochs + 1
        return outcome if same else None

    def write(self, population: str, outcome: Outcome) -> None:
        text = json.dumps(asdict(outcome))
        self.output.write(self._name(population), lambda path: path.write_text(text), working=True)

    def remove(self) -> None:
        """Once all results are written."""
        self.output.remove(self.folder)

    def _name(self, population: str) -> str:
        return f"{self.folder}/{population}.json"
