"""Train a hyper-representation with several processes, on one machine or many: `hyperrep train` for a launcher.

    accelerate launch scripts/train.py mnist --zoo zoos/cnn-zoo-mnist --output mnist
    torchrun --nproc_per_node 2 scripts/train.py ...          # two GPUs, or two CPU processes
    accelerate launch --mixed_precision no --num_processes 1 scripts/train.py ... --learning_rate 3e-4 --resume

Where the package is installed, `accelerate launch -m hyperrep_cli train ...` is the same. Any key of the configuration
can be given as `--key value`. docs/distributed.md has files for `accelerate launch`. Note that `accelerate launch
--cpu --num_processes 2` starts one process only; for two on a CPU use torchrun with ACCELERATE_USE_CPU=true.
"""

import sys

from hyperrep_cli import main


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "train", *sys.argv[1:]]
    sys.exit(main())
