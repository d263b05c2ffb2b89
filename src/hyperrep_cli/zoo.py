"""`hyperrep zoo ...`: build and inspect model zoos."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .commands import leave_processes
from .output import print_json, print_text, show


if TYPE_CHECKING:
    from hyperrep.zoo import Zoo

app = typer.Typer(help="Build and inspect model zoos.", no_args_is_help=True)


@app.command()
def build(
    protocol: Annotated[
        str,
        typer.Option(
            help="Recipe: mnist, svhn, cifar10, stl10, fashion-mnist, usps (as published), mnist-grid, svhn-kaiming "
            "or digits."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    images: Annotated[
        str | None, typer.Option(help="Hub id, local folder or 'digits'. Default: the protocol's own.")
    ] = None,
    models: Annotated[int, typer.Option(help="Number of models; their seeds are 1, 2, ...")] = 1000,
    epochs: Annotated[int | None, typer.Option(help="Training epochs. Default: the protocol's own.")] = None,
    keep_epochs: Annotated[
        str | None, typer.Option(help="Epochs to store, such as 0,1,5,21-25. Default: all.")
    ] = None,
    test_epochs: Annotated[
        int | None, typer.Option(help="Train the models of the test split so far. Default: as the others.")
    ] = None,
    first_seed: Annotated[int, typer.Option(help="Seed of the first model.")] = 1,
    max_images: Annotated[
        int | None, typer.Option(help="Draw only so many training images, of every class its share; for trials.")
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the labels: classes, texts or whole numbers. Default: the one of type ClassLabel."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, cuda, native, vmap or loop.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted build.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an existing zoo first.")] = False,
) -> None:
    """Train a population of networks and write it as a `datasets` folder."""
    from hyperrep.files import check_output, mode_of
    from hyperrep.images import load_images
    from hyperrep.population import choose_engine
    from hyperrep.zoo import ZooSettings, build_zoo, get_protocol
    from hyperrep.zoo.settings import parse_epochs

    recipe = get_protocol(protocol)
    settings = ZooSettings(
        recipe,
        models,
        recipe.epochs if epochs is None else epochs,
        parse_epochs(keep_epochs) if keep_epochs is not None else (),
        first_seed,
        test_epochs,
    )
    mode = mode_of(resume, overwrite)
    processes = _processes()
    if not resume and (processes is None or processes.is_main_process):
        check_output(output, "zoo", mode, resumable=True)  # before the images, which may take minutes
    data = load_images(
        recipe.images if images is None else images,
        recipe.processor(),
        recipe.validation_fraction,
        max_images,
        label_column=label_column,
    )
    chosen = choose_engine(engine, recipe.network_config(data.classes))
    folder = build_zoo(settings, data, chosen, output, resume, overwrite, processes)
    if processes is None or processes.is_main_process:
        _print_info(folder)
    leave_processes()


def _processes():
    """Accelerate's account of the processes a launcher started, `None` where there is but this one."""
    if (size := os.environ.get("WORLD_SIZE", "1")) == "1":
        return None
    if not size.isdecimal() or "MASTER_ADDR" not in os.environ:
        from hyperrep.errors import UserError

        raise UserError(
            f"WORLD_SIZE is {size!r}, which a launcher sets together with MASTER_ADDR and others; unset it, or start "
            "with accelerate launch or torchrun."
        )
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Folder of checkpoints, or a text file with a Hub id in each line.")],
    output: Annotated[Path, typer.Option(help="Folder of the zoo.")],
    protocol: Annotated[
        str | None, typer.Option(help="Recipe that they were trained by: mnist, svhn, ... It says what they are.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Hub id or folder: measure loss and accuracy on the protocol's images.")
    ] = None,
    epoch: Annotated[
        int | None, typer.Option(help="Epochs of training that they had, where the folder does not say.")
    ] = None,
    epochs: Annotated[str | None, typer.Option(help="Of those that the folder has, these: 0,1,5,21-25.")] = None,
    like: Annotated[
        str | None, typer.Option(help="Of several architectures, only that of this model: a folder's or file's name.")
    ] = None,
    by_architecture: Annotated[
        bool, typer.Option("--by-architecture", help="Of several architectures, a zoo each, in subfolders.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a zoo that hyperrep wrote there.")] = False,
) -> None:
    """Write networks that were trained elsewhere as a zoo: folders that transformers saved, loose files of tensors
    (safetensors, or PyTorch's, of which nothing but tensors is read), one of the public Model Zoos, or the CNN Wild
    Park."""
    from hyperrep.errors import UserError
    from hyperrep.files import check_output, mode_of
    from hyperrep.images import load_images
    from hyperrep.zoo import get_protocol, import_zoo, import_zoos
    from hyperrep.zoo.importing import NO_PROTOCOL
    from hyperrep.zoo.settings import parse_epochs

    check_output(output, "zoos" if by_architecture else "zoo", mode_of(overwrite=overwrite))
    asked = () if epochs is None else parse_epochs(epochs)
    if by_architecture:
        if given := [name for name, value in (("protocol", protocol), ("images", images), ("like", like)) if value]:
            raise UserError(f"--{given[0]} is about networks of one architecture; leave out --by-architecture.")
        _print_info(import_zoos(source, output, epoch, asked, overwrite))
        return
    recipe = None if protocol is None else get_protocol(protocol)
    data = None
    if images is not None:
        if recipe is None:
            raise UserError(NO_PROTOCOL)
        data = load_images(images, recipe.processor(), recipe.validation_fraction)
    _print_info(import_zoo(source, output, recipe, data, epoch, asked, overwrite, like))


@app.command()
def rewrite(
    zoo: Annotated[str, typer.Argument(help="Folder or Hub id of a zoo.")],
    output: Annotated[Path, typer.Option(help="Folder of the copy.")],
    repo: Annotated[str | None, typer.Option(help="Hub id the card's examples name.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a zoo that hyperrep wrote there.")] = False,
) -> None:
    """Write a zoo again as this version writes it, without training: for zoos of earlier versions."""
    from hyperrep.files import check_output, mode_of
    from hyperrep.zoo import load_zoo

    check_output(output, "zoo", mode_of(overwrite=overwrite))
    load_zoo(zoo).save(output, overwrite, repo)
    print_text(f"wrote {output}")


@app.command()
def info(
    zoo: Annotated[str, typer.Argument(help="Folder or Hub id of a zoo.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print a zoo's statistics."""
    _print_info(zoo, as_json)


def _print_info(path: str | Path, as_json: bool = False) -> None:
    from hyperrep.zoo import load_zoos

    zoos = load_zoos(path)
    if as_json:
        facts = [_facts(zoo) for zoo in zoos]
        print_json(facts[0] if len(facts) == 1 else facts)
        return
    for zoo in zoos:
        _print_zoo(zoo, str(path) if len(zoos) == 1 else f"{path}/{zoo.name.rpartition('/')[2]}")


def _facts(zoo: "Zoo") -> dict[str, Any]:
    from hyperrep.zoo.accuracy import accuracy_by_epoch

    return {
        "name": zoo.name,
        "revision": zoo.revision,
        "models": zoo.config.num_models,
        "parameters": zoo.config.weight_layout().num_learned,
        "images": zoo.config.images.get("name"),
        "checkpoints": {name: len(rows) for name, rows in zoo.splits.items()},
        "test_accuracy": [
            {"epoch": epoch, "mean": mean / 100, "std": std / 100, "n": count}
            for epoch, (mean, std, count) in accuracy_by_epoch(zoo.splits).items()
            if mean == mean  # JSON has no NaN
        ],
    }


def _print_zoo(zoo: "Zoo", path: str) -> None:
    from rich.bar import Bar
    from rich.markup import escape
    from rich.table import Table

    from hyperrep.zoo.accuracy import accuracy_by_epoch

    config, statistics, published = zoo.config, accuracy_by_epoch(zoo.splits), zoo.config.published_accuracy()
    sizes = {name: len(rows) for name, rows in zoo.splits.items()}
    table = Table(
        title=escape(
            f"{path}: {config.num_models:,} models of {config.weight_layout().described}, "
            f"images {config.images.get('name', 'unknown')}"
        )
    )
    for column in ("epoch", "test accuracy, %", "models", "published, %"):
        table.add_column(column, justify="right")
    table.add_column("0 to 100 %")
    for epoch, (mean, std, count) in statistics.items():
        reference = "{:.1f} ± {:.1f}".format(*published[epoch]) if epoch in published else ""
        known = mean == mean  # NaN where a zoo of somebody's own does not say
        bar = Bar(size=100, begin=0, end=mean if known else 0, width=30)
        table.add_row(str(epoch), f"{mean:.1f} ± {std:.1f}" if known else "", str(count), reference, bar)
    show(table, "checkpoints: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
