"""One nowcast in an ODIM_H5 file with a data set for each lead, as ``stpredict forecast`` writes it (:mod:`stpredict.products.odim`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.data.readers import hdf5
from stpredict.data.readers.odim import QUANTITIES, Header, read_leads
from stpredict.errors import UserError
from stpredict.forecasts.nowcast_files import NowcastFile

NO_ECHO = -32.0
"""The reflectivity in dBZ that stands for what was seen and had none, as in the reader of composites."""


@dataclass(frozen=True)
class OdimNowcast(NowcastFile):
    """A nowcast in an ODIM_H5 file.

    Attributes:
        leads: where each frame is, and how its numbers are packed.
    """

    leads: tuple[Header, ...]

    def read(self, leads: NDArray[np.int64]) -> Tensor:
        """Return frames, as :class:`NowcastFile` says."""
        nothing = NO_ECHO if self.units == "dBZ" else 0.0
        frames = []
        with hdf5.open_file(self.path) as file:
            for lead in (self.leads[number] for number in leads):
                packed = np.asarray(hdf5.dataset(file, f"{lead.place}/data")[()])
                if packed.shape != self.size[1:]:
                    raise UserError(f"'{self.path}' has changed its size to {packed.shape}")
                values = packed.astype(np.float64) * lead.gain + lead.offset
                values = np.where(packed == lead.undetect, nothing, values)
                frames.append(np.where(packed == lead.nodata, np.nan, values).astype(np.float32))
        return torch.from_numpy(np.stack(frames))[None, :, None]


def is_odim_nowcast(path: Path) -> bool:
    """Whether a file is HDF5 of which ODIM_H5 is the convention.

    Raises:
        UserError: it is damaged.
    """
    if path.suffix != ".h5":
        return False
    with hdf5.open_file(path) as file:
        convention = file.attrs.get("Conventions", "")
        return (convention.decode("ascii", "replace") if isinstance(convention, bytes) else str(convention)).startswith("ODIM_H5")


def read_odim_nowcast(path: Path) -> OdimNowcast:
    """Read what a file says of itself.

    Raises:
        UserError: it is damaged, no composite, or no nowcast: its data sets are not of times after its own.
    """
    start, leads = read_leads(path)
    first = leads[0][1]
    if start is None:
        raise UserError(f"'{path}' does not say what it forecasts from: its 'what' needs date and time")
    gathered = first.seconds if first.quantity == "ACRR" else None
    for _, lead in leads:
        if (lead.height, lead.width, lead.grid) != (first.height, first.width, first.grid) or gathered not in (None, lead.seconds):
            raise UserError(f"'{path}' is no nowcast: {lead.place} is of other pixels or another period than {first.place}")
    return OdimNowcast(
        path,
        start,
        np.array([end for end, _ in leads]),
        members=None,
        size=(1, first.height, first.width),
        units=QUANTITIES[first.quantity] if gathered is None else "mm",
        period=None if gathered is None else float(gathered),
        grid=first.grid,
        z_r=None,
        minimum=NO_ECHO if QUANTITIES[first.quantity] == "dBZ" else None,
        made_by="",
        leads=tuple(lead for _, lead in leads),
    )
