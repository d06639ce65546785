"""The command line without its script: ``python -m lightning_uncertainty``."""

import sys

from lightning_uncertainty.cli import main

if __name__ == "__main__":
    sys.exit(main())
