"""Forecast products: what a forecast is written to, by the ending of the file's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stpredict.errors import UserError, nearest
from stpredict.products.bridge import to_pysteps
from stpredict.products.cf import make_dataset, write_netcdf
from stpredict.products.contents import Nowcast
from stpredict.products.films import write_film
from stpredict.products.geotiff import write_geotiff
from stpredict.products.odim import write_odim_file
from stpredict.products.plain import write_hdf5, write_npz

__all__ = ["FORMATS", "Format", "Nowcast", "choose_format", "make_dataset", "to_pysteps", "write_product"]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        write: writes a product to a path, whole or not at all.
        members: whether it has room for an ensemble and for probabilities.
        facts: whether it has room for what people want said, such as an institution.
    """

    write: Callable[[Path, Nowcast], None]
    members: bool = False
    facts: bool = True


FORMATS: dict[str, Format] = {
    ".npz": Format(write_npz, members=True),
    ".h5": Format(write_hdf5, members=True),
    ".nc": Format(write_netcdf, members=True),
    **dict.fromkeys((".tif", ".tiff"), Format(write_geotiff)),
    ".odim.h5": Format(write_odim_file),
    **dict.fromkeys((".mp4", ".webm", ".gif", ".webp", ".png"), Format(write_film, facts=False)),
}
"""How a forecast is written, by the ending of the file's name."""


def choose_format(path: Path) -> Format:
    """Return the format that a file's name ends in, the longest ending that fits.

    Raises:
        UserError: it ends in none.
    """
    endings = [ending for ending in FORMATS if path.name.endswith(ending)]
    if not endings:
        raise UserError(f"A forecast is written as {', '.join(FORMATS)}, not '{path.suffix}'{nearest(path.suffix, FORMATS)}")
    return FORMATS[max(endings, key=len)]


def write_product(path: Path, nowcast: Nowcast) -> None:
    """Write a product, whole or not at all.

    Raises:
        UserError: the name ends in no format, or the product does not fit into it.
        OSError: the file could not be written.
    """
    choose_format(path).write(path, nowcast)
