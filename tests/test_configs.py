"""Every shipped config: its keys exist, and all that a run works with can be made from it."""

from __future__ import annotations

import datetime
import shutil
import struct
from pathlib import Path
from runpy import run_path
from types import ModuleType

import numpy as np
import pytest
import torch

from stpredict.configuration import read_config
from stpredict.data import load_data
from stpredict.errors import UserError
from stpredict.files import shipped_names
from stpredict.networks import NETWORKS
from stpredict.processes import Processes
from stpredict.training import load_settings
from stpredict.training.schedules import learning_rate
from stpredict.training.work import Work, make_work

ROOT = Path(__file__).resolve().parents[1]
RADAR = ROOT / ".." / "shared" / "data" / "knmi_rap_2010-08-26"
NAMES = shipped_names("configs")
DAYS = [datetime.datetime(2018, 7, 1) + datetime.timedelta(days=2 * number) for number in range(6)]
RAIN = {
    "moving_rain": {"events": 4, "frames": 24},
    "meteoswiss": {"events": (datetime.datetime(2015, 5, 15, 15, 45), datetime.datetime(2017, 1, 31, 9, 45))},
    "sevir": {"size": 16, "moments": [*DAYS, datetime.datetime(2019, 3, 1), datetime.datetime(2019, 7, 1)]},
}
SHANGHAI = {"events": (datetime.datetime(2015, 8, 9, 22, 4, 54),), "frames": 20, "size": 501}
"""What the generators are asked for, so that every split has clips."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, films: ModuleType, knmi_files: ModuleType) -> dict[str, Path | None]:
    """Stand-ins, as large as what a user has, but empty of rain and of digits."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    for name, count in {"train": 60000, "t10k": 10000}.items():
        with (folder / "mnist" / f"{name}-images-idx3-ubyte").open("wb") as file:
            file.write(struct.pack(">4I", 0x803, count, 28, 28))
            file.truncate(16 + count * 28 * 28)
    event = folder / "events" / "KNMI" / "2010" / "08"
    event.mkdir(parents=True)
    for number in range(92):
        end = datetime.datetime(2010, 8, 26) + datetime.timedelta(minutes=5 * number)
        knmi_files.write_file(event, np.zeros((765, 700), np.uint16), end)
    films.write_video(folder / "film.mp4", films.wandering_square(200, 48, 64, colour=True))
    made = {"moving_digits": None, "moving_mnist": folder / "mnist", "knmi": event, "video": folder / "film.mp4"}
    generators = {name: run_path(str(ROOT / "datasets" / "generators" / f"{name}.py"))["write_sample"] for name in RAIN}
    for name, generate in generators.items():
        generate(folder / name, **RAIN[name])
    shutil.copytree(folder / "meteoswiss", folder / "events" / "mch")
    for name, place, settings in (
        ("fmi", "fmi/pgm/20170509", {"frames": 20, "height": 1226, "width": 760}),
        ("shanghai", "shanghai", SHANGHAI),
    ):
        run_path(str(ROOT / "datasets" / "generators" / f"{name}.py"))["write_sample"](folder / "events" / place, **settings)
    joined = {name: folder / "events" for name in shipped_names("datasets") if name.startswith("left_out/")}
    return made | {name: folder / name for name in RAIN} | joined


def work_of(name: str, roots: dict[str, Path | None], *overrides: str) -> Work:
    settings = load_settings(name)
    assert settings.data.root is None, "a config that is shipped knows no folder"
    root = roots[settings.data.card]
    where = [] if root is None else [f"--data.root={root}"]
    return make_work(load_settings(name, ["--trainer.device=cpu", *where, *overrides]), Processes())


def leaves(config: dict[str, object], path: str = "") -> list[str]:
    return [
        leaf for key, value in config.items() for leaf in (leaves(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"])
    ]


@pytest.mark.parametrize("name", NAMES)
def test_all_that_a_run_works_with_can_be_made(name: str, roots: dict[str, Path | None]) -> None:
    before = torch.get_num_threads()
    work = work_of(name, roots)
    assert torch.get_num_threads() == before, "a config that is shipped leaves the number of threads to the machine"
    settings, spec = work.settings, work.clips.spec
    if settings.trainer.validate_every:
        assert work.validation is not None and len(work.validation) > 0
    else:
        assert settings.data.card.startswith("left_out/"), "nothing is chosen by an event that is scored"
    assert len(work.clips) >= settings.data.batch_size
    clip = work.clips[0]
    assert clip.frames.shape == (work.clips.context + work.clips.horizon, *spec.shape)
    height, width = settings.data.random_crop or (spec.height, spec.width)
    assert height % work.network.patch_size == width % work.network.patch_size == 0
    assert settings.trainer.max_steps >= settings.trainer.validate_every >= 0


@pytest.mark.parametrize("name", NAMES)
def test_no_key_would_pass_unread(name: str, roots: dict[str, Path | None]) -> None:
    """A config that loads proves that its keys exist only if a key that does not exist is refused, in each of its sections."""
    for key in leaves(read_config(name)):
        with pytest.raises(UserError, match=f"{key.rpartition('.')[2]}_"):
            work_of(name, roots, f"--{key}_=1")


PUBLISHED = {
    "convlstm": (11_675_648, 125_000, 16, [5e-4 / 25, 5e-4, 5e-4 / 25e4]),
    "predrnn": (23_838_720, 80_000, 16, [3e-4] * 3),
    "predrnn_v2": (23_855_104, 80_000, 16, [1e-4] * 3),
    "predrnnpp": (15_390_160, 80_000, 8, [1e-3] * 3),
    "e3d_lstm": (9_622_032, 80_000, 4, [1e-3] * 3),
    "simvp_gsta": (46_769_665, 125_000, 16, [1e-3 / 25, 1e-3, 1e-3 / 25e4]),
    "simvp_incepu": (57_946_113, 125_000, 16, [1e-3 / 25, 1e-3, 1e-3 / 25e4]),
}
"""Weights as counted in published files, without those that their code never uses; steps; batch; first, highest and last rate."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes(name: str, roots: dict[str, Path | None]) -> None:
    weights, steps, batch, published = PUBLISHED[name]
    work = work_of(f"moving_mnist/{name}", roots)
    settings = work.settings
    assert sum(weight.numel() for weight in work.network.parameters()) == weights
    assert (settings.trainer.max_steps, settings.data.batch_size) == (steps, batch)
    assert (work.clips.context, work.clips.horizon, work.clips.spec.shape) == (10, 10, (1, 64, 64))
    assert isinstance(work.optimizer, torch.optim.Adam)
    rates = [learning_rate(settings.optimizer, step, steps) for step in (0, int(0.3 * steps) - 1, steps - 1)]
    assert rates == pytest.approx(published)
    if name == "predrnn_v2":
        assert work.schedule.probabilities(27_500) == (pytest.approx(0.816060, abs=1e-6), pytest.approx(0.45))
    elif work.network.predicts_context:
        assert work.schedule.probabilities(1) == (1.0, pytest.approx(0.99998))
        assert work.schedule.probabilities(25_000) == (1.0, pytest.approx(0.5))
        assert work.schedule.probabilities(50_000) == (1.0, 0.0)


def test_every_network_has_a_recipe_for_moving_mnist() -> None:
    networks = {load_settings(name).network["name"] for name in NAMES if name.startswith("moving_mnist/")}
    assert networks == set(NETWORKS) - {"residual"}, "extrapolation is for what moves without bouncing"


@pytest.mark.skipif(not RADAR.is_dir(), reason="KNMI's files are not here")
def test_the_crop_of_the_dutch_radar_holds_no_missing_pixel() -> None:
    data = load_settings("knmi/predrnn").data
    for split in ("train", "test"):
        clips = load_data(data.card, RADAR, split, crop=data.crop)
        assert clips.packing.missing == (65535.0,)
        frames = clips[len(clips) - 1].frames
        assert frames.shape[-2:] == (256, 256) and not (frames == 65535).any()
    beyond = load_data(data.card, RADAR, "test", crop=(200, 141, 256, 256))
    assert (beyond[0].frames == 65535).any(), "the test can fail"


@pytest.mark.parametrize("left_out", ["knmi_2010", "meteoswiss_2015", "meteoswiss_2017", "shanghai_2015"])
def test_an_event_that_is_left_out_is_scored_and_no_clip_of_it_is_trained_on(left_out: str, roots: dict[str, Path | None]) -> None:
    name = f"left_out/{left_out}"
    kept, scored = (load_data(name, roots[name], split) for split in ("train", "test"))
    of_training = {"knmi_2010": 77, "meteoswiss_2015": 4 * 25, "meteoswiss_2017": 4 * 25, "fmi_2017": 2 * 5, "shanghai_2015": 5}
    assert len(scored) == {"knmi_2010": 77, "shanghai_2015": 5}.get(left_out, 25)
    assert len(kept) == sum(of_training.values()) - of_training[left_out]
    day = scored[0].times[0].astype("datetime64[D]")
    assert str(day).startswith(left_out[-4:])
    assert all(kept[number].times[0].astype("datetime64[D]") != day for number in range(0, len(kept), 5))
