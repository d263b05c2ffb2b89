"""The whole story on the digits that ship in scikit-learn, by the commands a user would type.

    make demo            # or: python scripts/demo.py --output demo

Two to seven minutes on two CPU cores, without a network. Leaves in `demo/`: the zoo, the representation with its card
and results, twelve generated checkpoints, and `report.png`.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from hyperrep.errors import UserError
from hyperrep.files import OutputFolder, check_output, output_folder


STORY = [
    (
        "1. Train a zoo: 96 small CNNs that differ only in their seed",
        "zoo build --protocol digits --models 96 --output {demo}/zoo",
    ),
    (
        "2. Learn a hyper-representation of their weights",
        "train digits --zoo {demo}/zoo --output {demo}/representation",
    ),
    (
        "3. Sample twelve new networks and write them as checkpoints",
        "sample {demo}/representation --num-models 12 --seed 0 --output {demo}/samples",
    ),
    (
        "4. Do generated networks start, and train, better than random ones?",
        "evaluate finetune {demo}/representation --zoo {demo}/zoo --num-models 32 --epochs 5 "
        "--methods kde-independent --methods kde-joint --methods kde-as_released --methods uniform "
        "--methods noise-0.3",
    ),
    ("5. Write the model card from the results", "card {demo}/representation --repo org/hyperrep-digits"),
]


FOLDERS = {"zoo": "zoo", "representation": "representation", "samples": "networks"}  # and what kind each one is
REPLACING = ("zoo build", "train", "sample")  # commands that fill one of them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), help="folder to fill; an earlier demo in it is replaced"
    )
    demo = parser.parse_args().output
    try:
        is_again = check(demo)
        with output_folder(demo, "demo", "add") as folder:
            return run(demo, is_again, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check(demo: Path) -> bool:
    """Whether an earlier demo is there. Nothing here deletes: each command replaces what is its own.

    Raises:
        UserError: if anything that would be replaced is not an earlier demo's.
    """
    for name, kind in FOLDERS.items():
        check_output(demo / name, kind, "overwrite")
    report = demo / "report.png"
    if report.exists() and not OutputFolder(demo, "demo").is_ours("report.png"):
        raise UserError(f"{report} was not written by an earlier demo, or was changed since; choose another --output.")
    return any((demo / name).exists() for name in FOLDERS)


def run(demo: Path, is_again: bool, folder: OutputFolder) -> int:
    started = time.monotonic()
    for title, command in STORY:
        arguments = [part.format(demo=demo) for part in command.split()]
        if is_again and command.startswith(REPLACING):
            arguments.append("--overwrite")
        print(f"\n{title}\n$ hyperrep {' '.join(arguments)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "hyperrep_cli", *arguments]).returncode
        if code:
            return code

    from demo_report import draw_report
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar for every small checkpoint
    print("\n6. Load one of them as any Hugging Face model, and draw the report")
    with folder.staging() as stage:
        draw_report(demo, stage / "report.png")
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Look at:")
    for name in ("report.png", "zoo/README.md", "representation/README.md", "samples/index.json"):
        print(f"  {demo / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
