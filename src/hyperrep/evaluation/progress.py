"""Measured populations of an experiment, kept until all are, so that an interrupted one goes on where it was."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict

from ..errors import UserError
from ..files import OutputFolder, construct, read_json
from ..results import ResultRow


logger = logging.getLogger(__name__)


@strict
@dataclass
class Outcome:
    """What measuring one population gave.

    Attributes:
        settings (`dict`): everything that decides the rest.
        networks (`int`): how many the population has, or how many ensembles of them were measured.
        values (`dict`): of each quantity, by epoch: one number a network, or a single one of all together.
        seconds (`float`)
    """

    settings: dict[str, Any]
    networks: int
    values: dict[str, dict[str, list[float]]]
    seconds: float

    def __post_init__(self):
        for what, epochs in self.values.items():
            for epoch, numbers in epochs.items():
                if len(numbers) not in (1, self.networks) or not epoch.isdecimal():
                    raise UserError(f"{what}, epoch {epoch}: {len(numbers)} numbers of {self.networks} networks.")

    def rows(self, **fields: Any) -> Iterator[ResultRow]:
        """A row a quantity and epoch. A number of all networks together has their number as n, and no spread."""
        fields = fields | {"seconds": self.seconds, "settings": fields["settings"] | self.settings}
        for what, epochs in self.values.items():
            for epoch, numbers in epochs.items():
                row = ResultRow.of(torch.tensor(numbers), what=what, epoch=int(epoch), **fields)
                row.n = self.networks
                yield row


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

    def read(self, population: str, settings: dict[str, Any]) -> Outcome | None:
        """What an interrupted run left for this population, if it was the same population; `None` if it is damaged."""
        path = self.output.path / self._name(population)
        if not path.exists():
            return None
        try:
            outcome = construct(Outcome, read_json(path), path)
        except UserError as error:
            logger.warning("%s This population is measured again.", error)
            return None
        return outcome if outcome.settings == settings else None

    def write(self, population: str, outcome: Outcome) -> None:
        text = json.dumps(asdict(outcome))
        self.output.write(self._name(population), lambda path: path.write_text(text), working=True)

    def remove(self) -> None:
        """Once all results are written."""
        self.output.remove(self.folder)

    def _name(self, population: str) -> str:
        return f"{self.folder}/{population}.json"
