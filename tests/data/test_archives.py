"""What happens in archives of any format: a file half written, nothing seen, nothing found, a clock that jumps, rain below nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.data.card import Card, Frames, open_reader, read_card
from stpredict.data.checking import check_data
from stpredict.data.clips import Reader
from stpredict.data.odim_files import write_odim
from stpredict.data.readers.cf import Cf
from stpredict.frames import FrameSpec, Grid

for library in ("netCDF4", "pyproj", "wradlib", "xarray"):
    pytest.importorskip(library)

Generator = Callable[[str], ModuleType]
START = datetime(2021, 7, 14, 12)
GRID = Grid(
    "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84 +units=m",
    (1_000_000.0, -3_012_000.0, 1_008_000.0, -3_000_000.0),
)


@dataclass(frozen=True)
class Format:
    """How a card's archive says that nothing was seen, or nothing found.

    Attributes:
        card: its name.
        minutes: between frames.
        missing: code of a pixel that was not seen.
        nothing: physical value where nothing was found (code 0).
        shape: of a frame.
    """

    card: str
    minutes: int
    missing: float
    nothing: float = 0.0
    shape: tuple[int, int] = (12, 8)

    def write(self, generator: Generator, folder: Path, code: float, number: float) -> Path:
        """Write the frame of one code that comes ``number`` steps after the first."""
        moment, pixels = START + timedelta(minutes=self.minutes * number), np.full(self.shape, code)
        if self.card == "odim":
            path = folder / f"{moment:%Y%m%d%H%M}.h5"
            write_odim(path, pixels, quantity="RATE", grid=GRID, time=moment, seconds=900, gain=0.01)
            return path
        dtype = {"knmi": np.uint16, "radolan": np.uint16, "bom": np.int16}.get(self.card, np.uint8)
        written: Path = generator(self.card).write_file(folder, pixels.astype(dtype), moment)
        return written


FORMATS = [
    Format("knmi", 5, 65535),
    Format("odim", 15, np.nan),
    Format("fmi", 5, 255, -32.0),
    Format("radolan", 5, 0x2000 | 2500),
    Format("meteoswiss", 5, 255, shape=(640, 710)),
    Format("bom", 6, -1),
]


def spec_of(card: Card, reader: Reader) -> FrameSpec:
    frames = card.frames or Frames()
    facts: dict[str, Any] = {"transform": frames.transform, "fill": frames.fill, "minimum": frames.minimum}
    return FrameSpec(reader.channels, reader.height, reader.width, units=reader.facts["units"], **facts)


every_format = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.card)


@every_format
def test_the_newest_file_may_be_half_written(form: Format, tmp_path: Path, generator: Generator) -> None:
    paths = [form.write(generator, tmp_path, 0, number) for number in range(4)]
    newest = paths[-1].read_bytes()
    for content in (newest[: len(newest) // 2], b""):
        paths[-1].write_bytes(content)
        report = check_data(form.card, tmp_path)
        named = [sentence for sentence in report.problems if paths[-1].name in sentence]
        assert len(named) == 1
        # Half a picture tells its size, and is found out when its pixels are read.
        late = form.card == "meteoswiss" and len(content) > 0
        assert (report.films, report.frames, report.gaps) == (1, 4 if late else 3, 0)
        assert not any(path.name in sentence for path in paths[:-1] for sentence in report.problems)


@every_format
def test_a_frame_of_which_nothing_was_seen_is_not_one_in_which_nothing_was_found(
    form: Format, tmp_path: Path, generator: Generator
) -> None:
    form.write(generator, tmp_path, form.missing, 0)
    form.write(generator, tmp_path, 0, 1)
    card = read_card(form.card)
    reader = open_reader(card, tmp_path)
    physical = reader.packing.unpack(torch.from_numpy(reader.read(0, range(2))))
    assert physical[0].isnan().all() and (physical[1] == form.nothing).all()
    assert card.frames is not None and card.frames.minimum == form.nothing
    scaled, valid = spec_of(card, reader).scale(physical)
    assert scaled.isfinite().all() and valid[1].all() and not valid[0].any()
    problems = check_data(form.card, tmp_path).problems
    assert not [sentence for sentence in problems if "a clip needs" not in sentence]  # there are but two frames


@every_format
def test_a_clock_that_jumps_leaves_a_gap(form: Format, tmp_path: Path, generator: Generator) -> None:
    for number in (0, 1, 2.4, 3.4, 300):  # two fifths of a step late, in step with that, and days later
        form.write(generator, tmp_path, 0, number)
    report = check_data(form.card, tmp_path)
    assert (report.films, report.frames, report.gaps) == (1, 5, 2)
    assert report.longest_gap is not None and report.longest_gap.seconds == pytest.approx(296.6 * 60 * form.minutes, abs=60)


def test_rain_below_nothing_is_kept_and_forecasts_are_raised(tmp_path: Path, cf: ModuleType) -> None:
    """What a file says is told as it is; what a network gives is not less than the card's minimum."""
    rain = np.linspace(-2, 2, 240, dtype=np.float32).reshape(5, 6, 8)
    reader = Cf(cf.write(tmp_path / "a.nc", rain))
    np.testing.assert_array_equal(cf.physical(reader)[:, 0], rain)
    report = check_data("cf", tmp_path / "a.nc")
    assert report.frames == 5 and all("a clip needs" in sentence for sentence in report.problems)
    spec = spec_of(read_card("cf"), reader)
    scaled, valid = spec.scale(torch.from_numpy(rain))
    assert spec.minimum == 0 and valid.all() and scaled.isfinite().all()
    np.testing.assert_allclose(spec.unscale(scaled).numpy(), np.maximum(rain, 0), atol=1e-4)
