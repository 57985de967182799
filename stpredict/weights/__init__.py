"""Foreign checkpoints: what others have published, read without running anything that they hold."""

from stpredict.weights.importing import SOURCES, import_cells, import_predictor

__all__ = ["SOURCES", "import_cells", "import_predictor"]
