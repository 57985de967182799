"""Show predicted films: ``python tools/render.py PREDICTOR ...`` is ``stpredict render PREDICTOR ...``."""

import sys

from stpredict.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["render", *sys.argv[1:]]))
