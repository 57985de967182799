"""One, two and three processes find the same."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import runpy
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stpredict import kernels
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.evaluation.clips import own_batches
from stpredict.evaluation.saving import clear_parts, part_path
from stpredict.forecasts import ForecastFile
from stpredict.results import Scores

SAMPLES = runpy.run_path(str(Path(__file__).with_name("samples.py")))
Rain, Toy, Constant = SAMPLES["Rain"], SAMPLES["Toy"], SAMPLES["Constant"]
ASKED: dict[str, Any] = {"skill": "persistence", "resample": "films"}


def score(folder: Path, batch_size: int, **more: Any) -> Scores:
    data = Rain(clips=7)
    more |= {"training_clips": Toy(seed=4, missing=0.0), "save_forecasts": folder / "saved.h5"}
    return evaluate(Constant(4.0), data, batch_size=batch_size, device="cpu", **ASKED, **more)


def join_group(rank: int, count: int, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)


def work(rank: int, count: int, port: int, folder: Path, batch_size: int, limit: int | None) -> None:
    join_group(rank, count, port)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(score(folder, batch_size, limit=limit)))


def several(folder: Path, count: int, batch_size: int, limit: int | None = None) -> list[Scores]:
    """Return what each of some processes returns."""
    folder.mkdir()
    assert exit_codes(work, folder, count, batch_size, limit) == [0] * count
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def exit_codes(target: Any, folder: Path, count: int, *more: Any) -> list[int | None]:
    """Run processes of one group, forked so that they start at once, and return how each ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forking = multiprocessing.get_context("fork")
    processes = [forking.Process(target=target, args=(rank, count, port, folder, *more)) for rank in range(count)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 120
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def fail(rank: int, count: int, port: int, folder: Path) -> None:
    """Evaluate with a predictor that cannot forecast the last clips; note what is raised."""
    join_group(rank, count, port)

    class Failing(Constant):
        def forecast(self, observed: Any, horizon: int, *, members: Any = None, known: Any = None) -> Any:
            if rank == 1:
                raise UserError("out of luck")
            return super().forecast(observed, horizon)

    try:
        evaluate(Failing(), Rain(), device="cpu", save_forecasts=folder / "saved.h5")
    except (UserError, ConnectionError) as error:
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__} {error}")


def assert_close(first: Any, second: Any) -> None:
    """Compare plain data, numbers to 1e-6."""
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_close(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_close(one, other)
    else:
        assert second == (pytest.approx(first, rel=1e-6) if isinstance(first, float) else first)


@pytest.mark.parametrize(("count", "batch_size"), [(2, 3), (3, 1)])
def test_several_processes_find_what_one_finds(tmp_path: Path, count: int, batch_size: int) -> None:
    (tmp_path / "alone").mkdir()
    alone = score(tmp_path / "alone", 16)
    found = several(tmp_path / "several", count, batch_size)
    assert len(found) == count
    for scores in found:
        assert_close(alone.to_dict(), scores.to_dict())
        assert scores.indices == alone.indices
        for name, by_score in alone.per_clip.items():
            for score_name, values in by_score.items():
                np.testing.assert_allclose(scores.per_clip[name][score_name], values, rtol=1e-6)
    assert list(alone.scores) == ["constant", "persistence", "extrapolation", "context-mean", "training-mean"]
    assert alone.scores["constant"]["csi"]["interval"][0] < alone.scores["constant"]["csi"]["mean"]

    saved, whole = ForecastFile(tmp_path / "several" / "saved.h5"), ForecastFile(tmp_path / "alone" / "saved.h5")
    assert saved.hash == whole.hash and saved.indices == whole.indices and saved.digests == whole.digests
    np.testing.assert_array_equal(saved.read_rows(range(7)), whole.read_rows(range(7)))
    assert sorted(path.name for path in (tmp_path / "several").iterdir()) == [*(f"{rank}.pickle" for rank in range(count)), "saved.h5"]


def test_a_process_without_clips_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    ASKED["resample"] = "clips"
    try:
        alone = score(tmp_path / "alone", 16, limit=2)
        (first, *_) = several(tmp_path / "several", 3, 1, limit=2)
    finally:
        ASKED["resample"] = "films"
    assert_close(alone.to_dict(), first.to_dict())
    assert ForecastFile(tmp_path / "several" / "saved.h5").indices == [0, 1]


def test_when_one_process_fails_none_waits_and_nothing_is_left(tmp_path: Path) -> None:
    assert exit_codes(fail, tmp_path, 2) == [0, 0]
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said[0].startswith("ConnectionError Another process") and said[1] == "UserError out of luck"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.txt", "1.txt"]


def differ(rank: int, count: int, port: int, folder: Path) -> None:
    """Evaluate where the second process has no compiled kernels; note what is computed with, and what is said."""
    join_group(rank, count, port)
    kernels.in_use = lambda: ["winograd-1", "reference"][rank]
    used = set()

    class Noting(Constant):
        def forecast(self, observed: Any, horizon: int, *, members: Any = None, known: Any = None) -> Any:
            used.add(kernels.chosen())
            return super().forecast(observed, horizon)

    scores = evaluate(Noting(), Rain(), device="cpu")
    (folder / f"{rank}.txt").write_text(f"{used} {kernels.chosen()} {scores.warnings}")


def test_processes_with_different_kernels_all_use_torchs(tmp_path: Path) -> None:
    assert exit_codes(differ, tmp_path, 2) == [0, 0]
    for rank in range(2):
        said = (tmp_path / f"{rank}.txt").read_text()
        assert said.startswith("{'reference'} auto (") and "different kernels, so that all computed with torch's own" in said


def test_each_process_has_its_share_of_the_clips() -> None:
    assert [own_batches([3, 4, 5, 7, 8], 2, rank, 3) for rank in range(3)] == [[[3]], [[4, 5]], [[7, 8]]]
    assert [own_batches([3, 4], 2, rank, 3) for rank in range(3)] == [[], [[3]], [[4]]]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "saved.h5"
    kept = [path, tmp_path / "saved.npz", tmp_path / ".saved2.of-process-0.h5"]
    for left in [*kept, part_path(path, 0), part_path(path, 11), tmp_path / ".saved.999999999.part.h5"]:
        left.write_text("")
    (tmp_path / "..saved.of-process-3.999999999.part.h5").write_text("")
    clear_parts(path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_one_process_alone_refuses_a_batch_of_none() -> None:
    with pytest.raises(UserError, match="batch_size is at least 1, not 0"):
        evaluate(Constant(), Rain(), batch_size=0)
