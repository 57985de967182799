"""Which kind of saved forecasts a path is."""

from __future__ import annotations

from pathlib import Path

from stpredict.forecasts.archive import ForecastArchive, is_archive
from stpredict.forecasts.contract import SavedForecasts
from stpredict.forecasts.files import ForecastFile
from stpredict.forecasts.formats import FORMATS
from stpredict.forecasts.saved_arrays import SavedArrays, is_saved_arrays


def open_forecasts(path: Path) -> SavedForecasts | None:
    """Open saved forecasts of whatever kind: arrays, a forecast file, a nowcast, or a folder of arrays or of nowcasts.

    Returns:
        them, or None where ``path`` looks like none of these kinds.

    Raises:
        UserError: they are damaged.
    """
    if not path.exists():
        return None
    if is_saved_arrays(path):
        return SavedArrays(path)
    if is_archive(path):
        return ForecastArchive(path)
    return ForecastFile(path) if path.suffix in FORMATS and path.is_file() else None
