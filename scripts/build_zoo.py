"""Build a model zoo with several processes, on one machine or many: `hyperrep zoo build` for a launcher.

    accelerate launch scripts/build_zoo.py --protocol mnist --output zoos/cnn-zoo-mnist        # one process a GPU
    torchrun --nproc_per_node 2 scripts/build_zoo.py --protocol mnist --output ... --resume    # two, on a CPU

The models are split over the processes, and the zoo does not depend on how: a build may be begun with one process and
resumed with eight. All of them need the output folder on a file system they share. One process uses all cores already.
"""

import sys

from hyperrep_cli import main


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "zoo", "build", *sys.argv[1:]]
    sys.exit(main())
