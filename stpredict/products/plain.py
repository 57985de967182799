"""Products as plain arrays with names: numpy's ``.npz`` and HDF5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stpredict.files import refuse_full_disk, whole_file
from stpredict.products.contents import Nowcast


def write_npz(path: Path, nowcast: Nowcast) -> None:
    """Write the arrays of a product and, as JSON under ``about``, what it says about itself."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {"about": json.dumps(nowcast.about()), **nowcast.arrays()}
        np.savez_compressed(file, **arrays)


def write_hdf5(path: Path, nowcast: Nowcast) -> None:
    """Write the arrays of a product and, as JSON in the attribute ``about``, what it says about itself."""
    with whole_file(path) as temporary:
        refuse_full_disk(temporary, nowcast.byte_count)
        with h5py.File(temporary, "w") as file:
            for name, array in nowcast.arrays().items():
                file.create_dataset(name, data=array, compression="gzip" if array.ndim > 1 else None)
            file.attrs["about"] = json.dumps(nowcast.about())
