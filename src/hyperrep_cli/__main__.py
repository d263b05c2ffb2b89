"""`python -m hyperrep_cli`, where the `hyperrep` script is not on the path."""

from . import main


main()
