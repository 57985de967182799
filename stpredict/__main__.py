"""``python -m stpredict`` is the command ``stpredict``."""

from stpredict.cli.main import run

if __name__ == "__main__":
    run()
