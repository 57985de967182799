"""Train a predictor: ``python tools/train.py CONFIG ...`` is ``stpredict train CONFIG ...`` (for torchrun, which wants a file)."""

import sys

from stpredict.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
