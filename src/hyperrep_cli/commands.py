"""The commands beside `hyperrep zoo` and `hyperrep evaluate`: train, sample, card, results, push."""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .output import print_table, print_text


Representation = Annotated[str, typer.Argument(help="Folder or Hub id of a representation.")]
TrainedOn = Annotated[str, typer.Option(help="Folder or Hub id of the zoo it was trained on.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]

Token = Annotated[str | None, typer.Option(help="Of the Hub. Default: the one you are logged in with.")]
Top = Annotated[float | None, typer.Option(help="Share of the best training models the density is fitted to.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting of the method, such as scale=0.5; may come several times."),
]
VARIANT_HELP = "Of kde: independent, neuron, layer, joint or as_released. Of gaussian: diagonal or low_rank."

PATIENCE = 30  # seconds that another process than the first keeps an error to itself

# commands that read a configuration take any of its keys as --key value
OVERRIDABLE = {"allow_extra_args": True, "ignore_unknown_options": True}


def hide_small_bars() -> None:
    """transformers draws a bar for every small file it reads or writes; ours show the work that takes time."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def train_representation(
    context: typer.Context,
    config: Annotated[
        str, typer.Argument(help="YAML file of settings, or a preset: digits, mnist, mnist-paper, windows.")
    ],
    zoo: Annotated[str, typer.Option(help="Folder or Hub id of the zoo to learn from.")],
    output: Annotated[Path, typer.Option(help="Folder of the representation.")],
    images: Annotated[
        str | None, typer.Option(help="Images of the zoo, to run its networks on. Default: as the zoo names them.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Another zoo to learn from, of any architecture, with preset windows; may come several times."
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a hyper-representation on a zoo, and fit a sampler to its latents (independent KDE over the best 30 %).

    On several processes: accelerate launch -m hyperrep_cli train ...

    Any key of CONFIG can be given as --key value, such as --learning-rate 3e-4.
    """
    from hyperrep.pipeline import fit_sampler
    from hyperrep.samplers import SAMPLER_FOLDER
    from hyperrep.training import TrainingConfig, parse_overrides, train
    from hyperrep.training.failures import Interrupted
    from hyperrep.training.memory import keep_freed_memory

    hide_small_bars()
    keep_freed_memory()
    settings = TrainingConfig.from_yaml(config, parse_overrides(context.args))
    try:
        results = train(settings, zoo, output, resume=resume, overwrite=overwrite, images=images, also=also or ())
    except Interrupted as interrupted:
        leave_processes()
        raise SystemExit(128 + interrupted.signal) from interrupted  # it says how to go on
    validation, test = results["validation"]["r2"], results["test"]["r2"]
    if os.environ.get("RANK", "0") == "0":
        if not (output / SAMPLER_FOLDER).exists():  # a run that is complete may be asked for again
            fit_sampler(output, zoo)
        print_text(f"{output}: R² {validation:.4f} on the validation split, {test:.4f} on the test split")
    leave_processes()


def leave_processes() -> None:
    """End what binds this process to those that a launcher started beside it: threads of that which still run may
    abort the process as it ends, after all is done."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def tell_once(message: str) -> None:
    """One line on standard error, though each of several processes may come to it.

    The first process of a machine tells it. Another one waits before it does: mostly it has the same trouble, and the
    launcher ends it when the first has told; to end at once would have the launcher end the first before it speaks.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(PATIENCE)
    typer.echo(message, err=True)


def sample(
    representation: Representation,
    output: Annotated[Path, typer.Option(help="Folder for the checkpoints.")],
    num_models: Annotated[int, typer.Option(help="How many networks.")] = 50,
    method: Annotated[str | None, typer.Option(help="kde, uniform, gaussian, ... Default: as stored.")] = None,
    variant: Annotated[str | None, typer.Option(help=VARIANT_HELP)] = None,
    top: Top = None,
    bandwidth: Annotated[float | None, typer.Option(help="Of the kernel density.")] = None,
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    token: Token = None,
    best_of: Annotated[int, typer.Option(help="Draw so many times as many, and keep the best by --images.")] = 1,
    images: Annotated[
        str | None, typer.Option(help="Hub id or folder of images to choose by, of which the validation part is used.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Folder of a few checkpoints to sample around, instead of the zoo's networks.")
    ] = None,
    condition_images: Annotated[
        str | None,
        typer.Option(help="Hub id or folder of images whose statistics the networks' batch norms shall have."),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="What the zoo's networks differ in, such as hidden_act=relu; may come several times."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Sample new networks and write each as a Hugging Face checkpoint."""
    from hyperrep import HyperRepPipeline, UserError
    from hyperrep.files import check_output, mode_of
    from hyperrep.pipeline import seeded
    from hyperrep.samplers import refit
    from hyperrep.zoo.importing import read_networks

    hide_small_bars()
    check_output(output, "networks", mode_of(overwrite=overwrite))
    generator = seeded(seed)
    if best_of < 1 or (best_of > 1) != (images is not None):
        raise UserError(f"--best-of is {best_of}: give 2 or more, and --images to choose by, or neither.")
    pipe = HyperRepPipeline.from_pretrained(representation, revision=revision, token=token)
    changes = {"variant": variant, "top": top, "bandwidth": bandwidth} | _settings(settings)
    pipe.sampler = refit(pipe.sampler, method, **changes)
    if prompts is not None:
        if top is not None:
            raise UserError(f"--top {top} is a share of the zoo's networks; leave it out with --prompts.")
        given, layout, what = read_networks(prompts)
        told_of = None if what is None else what.to_dict()
        pipe = pipe.prompted(given, Path(prompts).resolve().name, layout, told_of)
    told = dict(entry.partition("=")[::2] for entry in network or ())
    networks = pipe(num_models * best_of, generator=generator, network=told)
    if condition_images is not None:
        seen = pipe.images(condition_images).train
        networks = networks.refresh_statistics(seen, f"the training images of {condition_images}")
    if images is not None:
        chosen_by = pipe.images(images).validation
        networks = networks.best(num_models, chosen_by, f"the validation images of {images}")
    networks.save_pretrained(output, overwrite=overwrite)
    chosen = f", the best of {num_models * best_of}" if best_of > 1 else ""
    print_text(f"{num_models} networks in {output}{chosen}")


def fit(
    representation: Representation,
    zoo: TrainedOn,
    output: Annotated[
        Path | None, typer.Option(help="New folder for model and sampler. Default: the representation's own.")
    ] = None,
    method: Annotated[str, typer.Option(help="kde, gaussian, neighbor, gan, flow, ...")] = "kde",
    variant: Annotated[str | None, typer.Option(help=VARIANT_HELP)] = None,
    top: Top = None,
    settings: Settings = None,
    epochs: Annotated[
        str | None, typer.Option(help="Of the zoo, such as 23-25. Default: those the representation learned from.")
    ] = None,
) -> None:
    """Fit another sampler to the latents of a representation's zoo; it takes the place of the one that is there."""
    from hyperrep.pipeline import fit_sampler
    from hyperrep.samplers import new_sampler
    from hyperrep.zoo.settings import parse_epochs

    hide_small_bars()
    given = {name: value for name, value in (("variant", variant), ("top", top)) if value is not None}
    sampler = new_sampler(method, **given | _settings(settings))
    chosen = None if epochs is None else parse_epochs(epochs)
    print_text(f"{output or representation}: {fit_sampler(representation, zoo, sampler, output, chosen)}")


def _settings(entries: list[str] | None) -> dict[str, Any]:
    """`name=value`, each value as JSON has it, or a text."""
    from hyperrep.errors import UserError

    settings = {}
    for entry in entries or ():
        name, equals, text = entry.partition("=")
        if not equals:
            raise UserError(f"--set {entry}: give a name and a value, such as --set scale=0.5.")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings


def card(
    folder: Annotated[Path, typer.Argument(help="Local folder of a representation or a zoo.")],
    repo: Annotated[str | None, typer.Option(help="Hub id the card's examples name. Default: org/...")] = None,
    output: Annotated[
        Path | None, typer.Option(help="New file for the card of a representation. Default: README.md of the folder.")
    ] = None,
) -> None:
    """Write the card, README.md, from the results files or the zoo's data; one that you have changed is kept."""
    if (folder / "zoo_config.json").exists():
        from hyperrep.errors import UserError
        from hyperrep.zoo import write_zoo_card

        if output is not None:
            raise UserError(f"{folder} is a zoo, whose card goes into it with its plot; leave out --output.")
        print_text(f"wrote {write_zoo_card(folder, repo)}")
    else:
        from hyperrep.cards import write_model_card

        print_text(f"wrote {write_model_card(folder, repo or 'org/hyperrep', output)}")


def results(
    files: Annotated[list[Path], typer.Argument(help="Result files, such as results/finetune.jsonl.")],
    form: Annotated[
        Literal["terminal", "markdown", "latex"], typer.Option("--format", help="LaTeX needs the package booktabs.")
    ] = "terminal",
) -> None:
    """Print the tables of result files: of any experiment, ablation or zoo."""
    from hyperrep.evaluation.report import tables_of
    from hyperrep.tables import latex_table, markdown_table

    for heading, tables in [tables_of(path) for path in files]:  # all are read before anything is printed
        for title, header, lines in tables:
            if form == "terminal":
                print_table(f"{heading}. {title}", header, lines)
            elif form == "markdown":
                print_text(f"**{heading}.** {title}\n\n{markdown_table(header, lines)}\n")
            else:
                print_text(latex_table(f"{heading}. {title}", header, lines) + "\n")


def push(
    folder: Annotated[Path, typer.Argument(help="Local folder of a representation, of networks or of a zoo.")],
    repo: Annotated[str, typer.Argument(help="Hub id, such as org/hyperrep-mnist.")],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    token: Token = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    commit_message: Annotated[str | None, typer.Option("--commit-message", "--message", help="Of the commit.")] = None,
) -> None:
    """Publish a representation, generated networks or a zoo on the Hugging Face Hub."""
    from hyperrep.hub import push_folder

    url = push_folder(
        folder,
        repo,
        repo_type="dataset" if any((folder / name).exists() for name in ("zoo_config.json", "zoos.json")) else "model",
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message,
    )
    print_text(f"published at {url}")
