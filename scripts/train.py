"""Train a hyper-representation on a zoo.

    python scripts/train.py scripts/configs/hyperrep_digits.yaml --zoo zoos/digits-demo --output hyperrep-digits
    accelerate launch scripts/train.py scripts/configs/hyperrep_mnist.yaml --zoo zoos/cnn-zoo-mnist --output mnist
    torchrun --nproc_per_node 2 scripts/train.py ...          # two GPUs, or two CPU processes
    accelerate launch --mixed_precision no --num_processes 1 scripts/train.py ... --learning_rate 3e-4 --resume

Any key of the configuration can be given as `--key value`. docs/distributed.md has files for `accelerate launch`. Note
that `accelerate launch --cpu --num_processes 2` starts one process only; for two on a CPU use torchrun with
ACCELERATE_USE_CPU=true.
"""

import argparse
import logging
import sys

from hyperrep.errors import UserError
from hyperrep.training import TrainingConfig, parse_overrides, train
from hyperrep.training.memory import keep_freed_memory


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="YAML file of settings")
    parser.add_argument("--zoo", required=True, help="folder or Hub id of the zoo")
    parser.add_argument("--output", required=True, help="folder of the trained model")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="delete the earlier run in the output folder")
    parser.add_argument("--images", help="images of the zoo; default: as the zoo names them")
    arguments, rest = parser.parse_known_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    try:
        config = TrainingConfig.from_yaml(arguments.config, parse_overrides(rest))
        results = train(
            config, arguments.zoo, arguments.output, arguments.resume, arguments.overwrite, arguments.images
        )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(interrupt, file=sys.stderr)
        return 130
    validation, test = results["validation"]["r2"], results["test"]["r2"]
    print(f"{arguments.output}: R² {validation:.4f} on the validation split, {test:.4f} on the test split")
    return 0


if __name__ == "__main__":
    sys.exit(main())
