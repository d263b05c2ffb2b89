"""A zoo on disk: Parquet files that `datasets.load_dataset` reads, one row a checkpoint, split by model.

Beside the data, `zoo_config.json` holds what columns cannot: architecture, parameter layout, preprocessing, protocol.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import OutputFolder, construct, mode_of, output_folder, read_json
from ..hub import resolve_folder
from ..images import PREPROCESSING, ImageData, load_images
from .card import write_card
from .config import CONFIG_NAME, ZooConfig
from .parquet import check_splits, read_splits, write_splits
from .split import ZooSplit


SEVERAL = "zoos.json"  # in a folder of zoos, a subfolder each: their names


@dataclass(frozen=True, repr=False)
class Zoo:
    """A loaded zoo: `zoo["train"]`, `zoo["validation"]`, `zoo["test"]`.

    Attributes:
        name (`str`): its Hub id or folder name.
        revision (`str`, *optional*): commit on the Hub.
    """

    name: str
    config: ZooConfig
    splits: dict[str, ZooSplit]
    revision: str | None = None

    def __getitem__(self, split: str) -> ZooSplit:
        return self.splits[split]

    def __repr__(self) -> str:
        rows = "".join(f"  {name}: {split!r}\n" for name, split in self.splits.items())
        return f"Zoo({self.name!r}, {self.config!r}\n{rows})"

    def save(self, output: str | Path, overwrite: bool = False, repo: str | None = None) -> Path:
        """Write the zoo to a folder that `load_dataset` and [`load_zoo`] read.

        Args:
            output (`str` or `Path`): a folder.
            overwrite (`bool`, *optional*): replace a zoo that hyperrep wrote there.
            repo (`str`, *optional*): the Hub id that the card's examples name.

        Raises:
            UserError: if rows and config do not fit, or the folder is not ours to write to.
        """
        check_splits(self.config, self.splits, "the zoo to write")
        with output_folder(output, "zoo", mode_of(overwrite=overwrite)) as folder:
            write_into(folder, self.config, self.splits, repo, replace=True)
        return Path(output)


def load_zoo(path_or_id: str | Path, revision: str | None = None, token: str | None = None) -> Zoo:
    """Load a zoo from a local folder or the Hub, or one of several in a repository: `org/zoos/resnet-272474`.

    Columns are tensors at once. Weights stay in their files until they are asked for, and only the chosen rows are
    read then: `zoo["train"].select([25]).weights`. The files must stay where they are until then.

    Raises:
        UserError: if there is no zoo at that place, or one of each of several architectures, its build was not
            finished, or its files are damaged or do not fit together. Where only the numbers are damaged, this comes
            when weights are read.
    """
    folder, commit = _resolved(path_or_id, revision, token)
    if (folder / SEVERAL).exists():
        names = zoo_names(folder)
        raise UserError(
            f"{path_or_id} holds a zoo for each of {len(names)} architectures; name one of them: "
            f"{', '.join(f'{path_or_id}/{name}' for name in names[:8])}{', ...' * (len(names) > 8)}."
        )
    return _loaded(folder, path_or_id, commit)


def load_zoos(path_or_id: str | Path, revision: str | None = None, token: str | None = None) -> list[Zoo]:
    """As [`load_zoo`]; where there are several, all of them, the largest first."""
    folder, commit = _resolved(path_or_id, revision, token)
    if not (folder / SEVERAL).exists():
        return [_loaded(folder, path_or_id, commit)]
    zoos = [_loaded(folder / name, f"{path_or_id}/{name}", commit) for name in zoo_names(folder)]
    return sorted(zoos, key=lambda zoo: -zoo.config.num_models)


def zoo_names(folder: Path) -> list[str]:
    """Subfolders of a folder of zoos.

    Raises:
        UserError: if its list is damaged or hostile.
    """
    names = read_json(folder / SEVERAL).get("zoos")
    if not isinstance(names, list) or not names:
        raise UserError(f"{folder / SEVERAL} names no zoos.")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"{folder / SEVERAL} names {str(name)[:80]!r}; that is no name of a subfolder.")
    return names


def _resolved(path_or_id: str | Path, revision: str | None, token: str | None) -> tuple[Path, str | None]:
    """The folder, and the commit on the Hub it came from."""
    whole, subfolder = str(path_or_id), ""
    parts = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)/(\w[\w.-]*)", whole)
    if parts and not Path(whole).exists() and not Path(parts[1]).exists():  # on the Hub, one of several
        whole, subfolder = parts.groups()
    return resolve_folder(whole, repo_type="dataset", revision=revision, token=token, subfolder=subfolder)


def _loaded(folder: Path, path_or_id: str | Path, commit: str | None) -> Zoo:
    if not (folder / CONFIG_NAME).exists():
        unfinished = (folder / ".build" / "settings.json").exists()
        hint = "its build was interrupted: finish it with --resume" if unfinished else "it is not a zoo"
        raise UserError(f"{path_or_id} holds no {CONFIG_NAME}: {hint}.")
    config = load_config(folder)
    is_folder = Path(path_or_id).is_dir()
    name = Path(path_or_id).resolve().name if is_folder else str(path_or_id)
    return Zoo(name, config, read_splits(folder, config), commit)


def load_config(folder: Path) -> ZooConfig:
    """What `zoo_config.json` in a folder says.

    Raises:
        UserError: if it is missing, damaged or hostile.
    """
    return construct(ZooConfig, read_json(folder / CONFIG_NAME), folder / CONFIG_NAME)


def write_into(
    folder: OutputFolder,
    config: ZooConfig,
    splits: dict[str, ZooSplit],
    repo: str | None = None,
    replace: bool = False,
) -> None:
    """[`Zoo.save`] into a folder that is claimed; `config.files` are set anew.

    `zoo_config.json` goes first and comes last: a folder that has it is complete.

    Args:
        replace (`bool`, *optional*): what was ours in the folder goes when the new files come.
    """
    folder.remove(CONFIG_NAME)
    with folder.staging(replace=replace) as stage:
        config = dataclasses.replace(config, files=write_splits(stage, splits, config))
        write_card(stage, config, splits, repo)
    folder.write_text(CONFIG_NAME, config.to_json())


def write_zoo_card(folder: str | Path, repo: str | None = None) -> Path:
    """Write the card of a zoo's folder again: `README.md`, `accuracy.png` and `results/`.

    Args:
        folder (`str` or `Path`): of a complete zoo.
        repo (`str`, *optional*): the Hub id that its examples name.

    Raises:
        UserError: if it is no zoo, or a person has written or changed one of the files.
    """
    zoo = load_zoo(folder)
    with output_folder(folder, "zoo", "add") as output, output.staging() as stage:
        write_card(stage, zoo.config, zoo.splits, repo)
    return Path(folder, "README.md")


def zoo_images(zoo: Zoo, source: str | None = None) -> ImageData:
    """The images a zoo was trained on.

    Args:
        zoo ([`Zoo`])
        source (`str`, *optional*): where they are: Hub id, folder or `digits`; by default what the zoo calls them.

    Raises:
        UserError: if they cannot be found, or are not the same images to the last pixel.
    """
    protocol, images = zoo.config.protocol, zoo.config.images
    if "fingerprint" not in images or "recipe" not in protocol:
        raise UserError(f"zoo {zoo.name} does not say which images it was trained on.")
    data = load_images(
        source or images["name"],
        zoo.config.image_processor_object(),
        protocol["validation_fraction"],
        max_images=images["train"] + images["validation"],
        label_column=images.get("label_column"),
    )
    if data.fingerprint != images["fingerprint"]:
        made, here = images.get("preprocessing", 1), PREPROCESSING
        older = f"; version {made} of the preprocessing made the zoo, here is {here}" if made != here else ""
        raise UserError(
            f"zoo {zoo.name} was trained on {images['train']:,} images of {images['name']} (fingerprint "
            f"{images['fingerprint']}); {source or images['name']} gives {len(data.train):,} others "
            f"({data.fingerprint}){older}."
        )
    return data
