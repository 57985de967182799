"""Damaged files of every radar reader: each ends in a sentence that names the file, or in numbers.

A format library may crash, hang or ask for all memory there is, so damaged files are read in processes of their own, with a limit to
their memory and to the time that each file takes.
"""

from __future__ import annotations

import gzip
import os
import resource
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from stpredict.data.card import read_card
from stpredict.data.clips import Reader
from stpredict.data.readers import hdf5
from stpredict.data.readers.cf import Cf
from stpredict.data.readers.fmi import Fmi
from stpredict.data.readers.hko7 import Hko7
from stpredict.data.readers.knmi import Knmi
from stpredict.data.readers.meteonet import MeteoNet
from stpredict.data.readers.meteoswiss import MeteoSwiss
from stpredict.data.readers.odim import Odim
from stpredict.data.readers.radolan import Radolan
from stpredict.data.readers.sevir import Sevir
from stpredict.data.readers.shanghai import Shanghai
from stpredict.data.readers.store import Store
from stpredict.data.storing import prepare_archive
from stpredict.data.windows import read_frames
from stpredict.errors import UserError
from stpredict.frames import Grid

for library in ("netCDF4", "pyproj", "wradlib", "xarray", "zarr"):
    pytest.importorskip(library)

MEMORY = 2 << 30  # bytes that a process may ask for, above those that it has when it begins
TAKEN = 400 << 20  # and those that it may have taken in the end: libraries ask for more than they touch
PATIENCE = 10.0  # seconds for one file, which takes some thousandths
START = datetime(2021, 7, 14, 12)
MORE = 10  # times as many files in the slow test

Generator = Callable[[str], ModuleType]


@dataclass(frozen=True)
class Sample:
    """A sound archive of very few, tiny frames.

    Attributes:
        files: those that are to be damaged.
        open: makes its reader.
        named: what a sentence may name instead of the damaged file.
    """

    files: Sequence[Path]
    open: Callable[[], Reader]
    named: Sequence[str] = ()


@dataclass
class Outcomes:
    """How reading damaged files ended.

    Attributes:
        counts: how many gave ``numbers``, or a ``sentence``.
        faults: what happened otherwise, by the seed of the damage.
        memory: the most bytes that a process took, above those that it had when it began.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[int, str] = field(default_factory=dict)
    memory: int = 0


def blob(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    image: np.ndarray = np.rint(100 * np.exp(-(((rows - height / 2) / 5) ** 2) - ((columns - width / 2) / 6) ** 2)).astype(np.uint8)
    return image


def knmi(folder: Path, generator: Generator) -> Sample:
    files = generator("knmi").write_sample(folder, frames=1, height=16, width=14)
    return Sample(files, lambda: Knmi(folder))


def odim(folder: Path, generator: Generator) -> Sample:
    from stpredict.data.odim_files import write_odim

    projection = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84 +units=m"
    grid = Grid(projection, (1_000_000.0, -3_012_000.0, 1_008_000.0, -3_000_000.0))
    write_odim(folder / "a.h5", blob(12, 8) / 4, quantity="ACRR", grid=grid, time=START, seconds=300, gain=0.1)
    return Sample([folder / "a.h5"], lambda: Odim(folder))


def meteoswiss(folder: Path, generator: Generator) -> Sample:
    module = generator("meteoswiss")
    return Sample([module.write_file(folder, blob(module.HEIGHT, module.WIDTH), START)], lambda: MeteoSwiss(folder))


def fmi(folder: Path, generator: Generator) -> Sample:
    files = generator("fmi").write_sample(folder, frames=1, height=20, width=12)
    plain = files[0].with_suffix("")
    plain.write_bytes(gzip.decompress(files[0].read_bytes()).replace(b"obstime 201705091045", b"obstime 201705091050"))
    return Sample([files[0], plain], lambda: Fmi(folder))


def radolan(folder: Path, generator: Generator) -> Sample:
    module = generator("radolan")
    pixels = blob(16, 12).astype(np.uint16)
    files = [module.write_file(folder, pixels, START.replace(minute=5 * n), "RY", end) for n, end in enumerate(("", ".gz", ".bz2"))]
    return Sample(files, lambda: Radolan(folder))


def sevir(folder: Path, generator: Generator) -> Sample:
    files = generator("sevir").write_sample(folder, moments=[START], frames=6, size=8)
    return Sample(files, lambda: Sevir(folder), ["the catalogue"])


def hko7(folder: Path, generator: Generator) -> Sample:
    module = generator("hko7")
    day = f"{START:%Y%m%d}"
    module.write_sample(folder, {"train": (day,)}, frames=1, size=16)
    frame, mask = next(folder.rglob("*.png")), next(folder.rglob("*.mask"))
    return Sample([frame, mask, frame], lambda: Hko7(folder))


def shanghai(folder: Path, generator: Generator) -> Sample:
    return Sample([generator("shanghai").write_frame(folder, START, blob(20, 16))], lambda: Shanghai(folder))


def meteonet(folder: Path, generator: Generator) -> Sample:
    file = generator("meteonet").write_sample(folder, frames=2, height=10, width=8)
    return Sample([file, file, folder / "radar_coords_NW.npz"], lambda: MeteoNet(folder))


def netcdf(folder: Path, generator: Generator) -> Sample:
    return Sample([generator("cf").write_netcdf(folder / "rain.nc", frames=2)], lambda: Cf(folder, units="mm/h"))


def classic_netcdf(folder: Path, generator: Generator) -> Sample:
    import xarray

    made, path = generator("cf").write_netcdf(folder / "made", frames=2), folder / "rain.nc"
    with xarray.open_dataset(made, decode_cf=False, engine="netcdf4") as dataset:
        dataset.to_netcdf(path, engine="netcdf4", format="NETCDF3_64BIT")
    return Sample([path], lambda: Cf(folder, units="mm/h"))


def rainfields(folder: Path, generator: Generator) -> Sample:
    files = generator("bom").write_sample(folder, frames=1, height=12, width=16)
    return Sample(files, lambda: Cf(folder, units="mm/h", variable="precipitation"))


def zarr(folder: Path, generator: Generator) -> Sample:
    store = generator("cf").write_zarr(folder / "rain.zarr", frames=2)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return Sample([store / ".zmetadata", store / "rain" / "0.0.0", *files], lambda: Cf(store), ["rain.zarr"])


def prepared(folder: Path, generator: Generator) -> Sample:
    generator("knmi").write_sample(folder / "archive", frames=2, height=16, width=14)
    prepare_archive(read_card("knmi"), folder / "archive", folder / "prepared.h5")
    return Sample([folder / "prepared.h5"], lambda: Store(folder / "prepared.h5"))


SAMPLES: dict[Callable[[Path, Generator], Sample], int] = {
    knmi: 900,
    odim: 900,
    meteoswiss: 500,
    fmi: 900,
    radolan: 900,
    sevir: 900,
    hko7: 900,
    shanghai: 900,
    meteonet: 900,
    netcdf: 800,
    classic_netcdf: 500,
    rainfields: 500,
    zarr: 200,
    prepared: 800,
}
"""How many damaged files of each are read."""

KNOWN: dict[str, dict[int, str]] = {}
"""Files on which a format library fails in a way that no reader can foresee: by sample and seed, what happens."""


def damage(sound: bytes, seed: int) -> bytes:
    """Return a file that was cut, or some of whose bits, bytes or blocks were changed."""
    random, content = np.random.default_rng(seed), bytearray(sound)
    kind = ("bits", "bytes", "bits", "bytes", "cut", "zeros", "twice", "gone")[seed % 8]
    # Headers, which lie in front, are hit as often as all the rest.
    reach = len(sound) if random.integers(2) else min(len(sound), 600)
    places = random.integers(reach, size=random.integers(1, 9))
    start, length = int(places[0]), int(random.integers(1, 200))
    if kind == "bits":
        for place in places:
            content[place] ^= 1 << random.integers(8)
    elif kind == "bytes":
        for place in places:
            content[place] = random.integers(256)
    elif kind == "cut":
        del content[start:]
    elif kind == "zeros":
        content[start : start + length] = bytes(len(content[start : start + length]))
    elif kind == "twice":
        content[start:start] = content[start : start + length]
    else:
        del content[start : start + length]
    return bytes(content)


def read_damaged(sample: Sample, seed: int) -> str:
    """Return ``numbers`` or ``sentence``, or else what was wrong."""
    path = sample.files[seed // 8 % len(sample.files)]
    sound = path.read_bytes()
    try:
        path.write_bytes(damage(sound, seed))
        os.utime(path, ns=(seed, seed))  # what readers keep in memory they know by this time and the size
        reader = sample.open()
        for film, about in enumerate(reader.films):
            packed = read_frames(reader, film, range(about.length), nan_is_missing=True)
            physical = reader.packing.unpack(torch.from_numpy(packed))
            if physical.shape != (about.length, reader.channels, reader.height, reader.width) or physical.isinf().any():
                return f"frames {tuple(physical.shape)} of which {int(physical.isinf().sum())} pixels are infinite"
            if about.times is None or about.times.shape != (about.length,) or np.isnat(about.times).any():
                return f"times {about.times}"
        return "numbers"
    except UserError as error:
        return (
            "sentence"
            if any(name in str(error) for name in (path.name, *sample.named))
            else f"a sentence that does not name {path.name}: {error}"
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        path.write_bytes(sound)


def in_a_process(sample: Sample, seeds: Sequence[int]) -> tuple[list[str], int, int]:
    """Return how reading ended for the first seeds, up to where the process did; how that ended (0: as it should); the memory it took."""
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            warnings.simplefilter("ignore")
            size, resident = (int(pages) * resource.getpagesize() for pages in Path("/proc/self/statm").read_text().split()[:2])
            os.write(target, f"{resident}\n".encode())
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process also where a library does not return
            for seed in seeds:
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)
                os.write(target, " ".join(read_damaged(sample, seed).split()).encode()[:2000] + b"\n")
            status = 0
        finally:
            os._exit(status)
    os.close(target)
    with os.fdopen(source, encoding="utf-8", errors="replace") as results:
        began, *lines = results.read().splitlines()
    _, status, usage = os.wait4(child, 0)
    return lines, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024 - int(began)


def read_all(sample: Sample, seeds: range) -> Outcomes:
    sound = {path: path.read_bytes() for path in sample.files}
    outcomes, left = Outcomes(), list(seeds)
    while left:
        lines, status, memory = in_a_process(sample, left)
        outcomes.memory = max(outcomes.memory, memory)
        if len(lines) < len(left):
            lines.append("hangs" if status == -signal.SIGALRM else f"ends the process ({status})")
            for path, content in sound.items():
                path.write_bytes(content)
        for seed, line in zip(left, lines, strict=False):
            if line in ("numbers", "sentence"):
                outcomes.counts[line] += 1
            else:
                outcomes.faults[seed] = line
        left = left[len(lines) :]
    return outcomes


def check(make: Callable[[Path, Generator], Sample], folder: Path, generator: Generator, seeds: range) -> None:
    sample = make(folder, generator)
    reader = sample.open()
    assert all(read_frames(reader, film, range(about.length), True).size for film, about in enumerate(reader.films))
    outcomes = read_all(sample, seeds)
    known: Mapping[int, str] = {seed: fault for seed, fault in KNOWN.get(make.__name__, {}).items() if seed in seeds}
    assert outcomes.faults == known, "\n".join(f"{seed}: {fault}" for seed, fault in outcomes.faults.items())
    assert outcomes.memory < TAKEN
    assert outcomes.counts.total() + len(known) == len(seeds)
    assert outcomes.counts["sentence"] > len(seeds) / 20 and outcomes.counts["numbers"] > 0, outcomes.counts


@pytest.mark.parametrize("make", SAMPLES, ids=lambda make: make.__name__)
def test_damaged_files_end_in_a_sentence_or_numbers(
    make: Callable[[Path, Generator], Sample], tmp_path: Path, generator: Generator
) -> None:
    check(make, tmp_path, generator, range(SAMPLES[make]))


@pytest.mark.parametrize("header", [bytes(16), b"\x01\x00\x01\x00" + bytes(4) + b"\xf0" + b"\xff" * 7])
def test_a_heap_without_end_is_refused_before_the_library_walks_it(header: bytes, tmp_path: Path, generator: Generator) -> None:
    """An object that takes no room, or so much that its end comes round to its start: the HDF5 library never returns from either."""
    path = rainfields(tmp_path, generator).files[0]
    content = path.read_bytes()
    place = content.index(b"GCOL") + 16
    path.write_bytes(content[:place] + header + content[place + 16 :])
    with pytest.raises(UserError, match=r"prcp-cscn\.nc' is damaged: a heap of its texts and lists has no end"), hdf5.open_file(path):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("make", SAMPLES, ids=lambda make: make.__name__)
def test_more_damaged_files(make: Callable[[Path, Generator], Sample], tmp_path: Path, generator: Generator) -> None:
    check(make, tmp_path, generator, range(SAMPLES[make], (1 + MORE) * SAMPLES[make]))
