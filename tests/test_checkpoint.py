"""Checkpoints: damage is noticed, what was whole stays whole whatever happens, and a step does not wait for the disk."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from stpredict import checkpoint as module
from stpredict.checkpoint import Checkpoint, CheckpointWriter, DamagedCheckpoint, checkpoints, newest_whole, remove_unfinished
from stpredict.errors import UserError

FIRST_FORMAT = Path(__file__).parent / "fixtures" / "0.1.0" / "run" / "checkpoints" / "step-00000002.safetensors"


def state(step: int) -> Checkpoint:
    """A small state all of whose numbers say its step."""
    weights = {"conv.weight": torch.full((4, 3, 5), float(step)), "norm.count": torch.tensor(step)}
    optimizer = {"0.exp_avg": torch.full((4, 3, 5), float(step), dtype=torch.float64), "0.step": torch.tensor(float(step))}
    averages = {"conv.weight": torch.full((4, 3, 5), step, dtype=torch.bfloat16)}
    return Checkpoint(step, weights, optimizer, 0.1 * step, {"threads": 2, "where": "Zürich"}, ema=averages)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same(given: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert given.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert given[name].dtype == tensor.dtype and given[name].shape == tensor.shape and torch.equal(given[name], tensor), name


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = state(3)
    path = saved.save(tmp_path, keep=1)
    again = Checkpoint.load(path)
    assert (again.step, again.best, again.facts, again.path) == (3, 0.1 * 3, {"threads": 2, "where": "Zürich"}, path)
    assert_same(again.weights, saved.weights)
    assert_same(again.optimizer, saved.optimizer)
    assert_same(again.ema, saved.ema)
    by_library = safetensors.torch.load_file(path)
    del by_library["checksum"]
    assert_same(by_library, saved.tensors())


def test_the_averages_are_no_matter_to_what_is_restored(tmp_path: Path) -> None:
    network, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    averages = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    path = Checkpoint(1, network.state_dict(), {}, ema=averages).save(tmp_path, keep=1)
    Checkpoint.load(path).restore(other, torch.optim.SGD(other.parameters()))
    assert_same(dict(other.state_dict()), dict(network.state_dict()))


def test_a_file_of_the_first_format_has_no_checksum_and_loads() -> None:
    checkpoint = Checkpoint.load(FIRST_FORMAT)
    assert (checkpoint.step, checkpoint.ema) == (2, {}) and checkpoint.facts["stpredict"] == "0.1.0"
    assert_same(checkpoint.tensors(), safetensors.torch.load_file(FIRST_FORMAT))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    older, path = state(1).save(tmp_path, keep=2), state(2).save(tmp_path, keep=2)
    whole = path.read_bytes()
    for length in [*(len(whole) * part // 20 for part in range(20)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpoint, match=r"step-00000002\.safetensors is no whole checkpoint \(.+\); remove it"):
            Checkpoint.load(path)
        found, said = newest_whole(tmp_path)
        assert found is not None and (found.step, found.path) == (1, older)
        assert len(said) == 1 and "step-00000002.safetensors is no whole checkpoint" in said[0] and said[0].endswith("was passed over")
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedCheckpoint):
        Checkpoint.load(path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = state(2).save(tmp_path, keep=1)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    assert len(whole) > 1.5 * header, "both parts are hit"
    draw = random.Random(0)
    hits = [draw.randrange(8 * len(whole)) for _ in range(60)] + [draw.randrange(8 * header) for _ in range(240)]
    for bit in [*hits, 8 * len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpoint, match=r"step-00000002\.safetensors is no whole checkpoint \(.+\)"):
            Checkpoint.load(path)
    path.write_bytes(whole)
    assert Checkpoint.load(path).step == 2


def test_a_later_format_without_its_checksum_is_not_taken_for_the_first(tmp_path: Path) -> None:
    path = state(2).save(tmp_path, keep=1)
    with safetensors.safe_open(path, framework="pt") as file:
        texts = file.metadata()
    tensors = safetensors.torch.load_file(path)
    del tensors["checksum"]
    safetensors.torch.save_file(tensors, path, texts)
    with pytest.raises(DamagedCheckpoint, match="its checksum does not fit its bytes"):
        Checkpoint.load(path)


def test_a_sector_that_cannot_be_read_is_damage_and_a_refusal_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = state(2).save(tmp_path, keep=1)
    for number, expected in ((errno.EIO, DamagedCheckpoint), (errno.EACCES, PermissionError)):

        def fail(path: Path, number: int = number) -> bool:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(module, "checksum_fits", fail)
        with pytest.raises(expected, match=r"step-00000002\.safetensors"):
            newest_whole(tmp_path)[0] or Checkpoint.load(path)


def test_a_newer_format_is_refused_and_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state(1).save(tmp_path, keep=3)
    with monkeypatch.context() as later:
        later.setattr(module, "FORMAT", module.FORMAT + 1)
        newer = state(2).save(tmp_path, keep=3)
    for read in (lambda: Checkpoint.load(newer), lambda: newest_whole(tmp_path)):
        with pytest.raises(
            UserError, match=r"step-00000002\.safetensors is a checkpoint of format 3, .* reads formats up to 2: update"
        ) as said:
            read()
        assert not isinstance(said.value, DamagedCheckpoint)
    state(3).save(tmp_path, keep=3)
    found, passed_over = newest_whole(tmp_path)
    assert found is not None and found.step == 3 and passed_over == []


def test_the_newest_are_kept_and_every_milestone(tmp_path: Path) -> None:
    for step in range(1, 8):
        state(step).save(tmp_path, keep=2, milestone=step % 3 == 0)
    kept = ["step-00000003.milestone.safetensors", "step-00000005.safetensors", "step-00000006.milestone.safetensors"]
    assert [path.name for path in checkpoints(tmp_path)] == [*kept, "step-00000007.safetensors"]
    assert names(tmp_path) == [*kept, "step-00000007.safetensors"]


def test_checkpoints_are_in_the_order_of_their_steps_and_nothing_else_is_one(tmp_path: Path) -> None:
    for name in ("step-100000000", "step-99999999.milestone", "step-00000002", "step-best", "step-1.old", ".step-00000003.7.part"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "step-00000009.txt").touch()
    assert [path.stem for path in checkpoints(tmp_path)] == ["step-00000002", "step-99999999.milestone", "step-100000000"]
    assert checkpoints(tmp_path / "missing") == []


def test_what_was_just_written_is_not_removed_for_a_damaged_one_of_a_later_step(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        state(step).save(tmp_path, keep=3)
    (tmp_path / "step-00000003.safetensors").write_bytes(b"damaged")
    found, _ = newest_whole(tmp_path)
    assert found is not None and found.step == 2
    state(2).save(tmp_path, keep=1)
    found, _ = newest_whole(tmp_path)
    assert found is not None and found.step == 2
    state(3).save(tmp_path, keep=1)
    assert names(tmp_path) == ["step-00000003.safetensors"] and newest_whole(tmp_path)[1] == []


def test_without_a_whole_one_there_is_none(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) == (None, [])
    for step in (1, 2):
        (tmp_path / f"step-0000000{step}.safetensors").write_bytes(b"")
    found, said = newest_whole(tmp_path)
    assert found is None and ["00000002" in said[0], "00000001" in said[1], len(said)] == [True, True, 2]


def test_a_write_goes_on_beside_the_steps_and_is_of_its_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, save, reported = threading.Event(), Checkpoint.save, []

    def wait_and_save(self: Checkpoint, folder: Path, keep: int, milestone: bool = False) -> Path:
        assert begin.wait(20)
        return save(self, folder, keep, milestone)

    monkeypatch.setattr(Checkpoint, "save", wait_and_save)
    changing = state(1)
    wanted = state(1)
    with CheckpointWriter() as writer:
        writer.write(changing, tmp_path, 2, then=lambda written: reported.append((written.step, written.path)))
        for tensor in changing.tensors().values():
            tensor.fill_(9)
        changing.facts["threads"] = 9
        assert checkpoints(tmp_path) == [] and reported == []
        release = threading.Timer(0.2, begin.set)
        release.start()
        writer.write(state(2), tmp_path, 2, milestone=True)
        assert begin.is_set(), "the second write waits for the first"
        assert reported == [(1, tmp_path / "step-00000001.safetensors")]
    assert names(tmp_path) == ["step-00000001.safetensors", "step-00000002.milestone.safetensors"]
    first, second = (Checkpoint.load(path) for path in checkpoints(tmp_path))
    assert_same(first.tensors(), wanted.tensors())
    assert_same(second.tensors(), state(2).tensors())
    assert (first.facts, second.facts) == (wanted.facts, wanted.facts)


def test_memory_of_the_write_before_is_used_only_where_it_fits(tmp_path: Path) -> None:
    shapes = [((2, 3), torch.float32), ((6,), torch.float32), ((6,), torch.int64), ((6,), torch.int64)]
    with CheckpointWriter() as writer:
        for step, (shape, kind) in enumerate(shapes, start=1):
            writer.write(Checkpoint(step, {"w": torch.full(shape, step, dtype=kind), "t": torch.ones(3, 2).t()}, {}), tmp_path, 9)
    for step, (shape, kind) in enumerate(shapes, start=1):
        loaded = Checkpoint.load(tmp_path / f"step-0000000{step}.safetensors")
        assert_same(loaded.weights, {"w": torch.full(shape, step, dtype=kind), "t": torch.ones(2, 3)})


def test_a_failed_write_is_told_by_the_next_and_by_the_end(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    writer = CheckpointWriter()
    writer.write(state(1), missing, 1)
    with pytest.raises(OSError, match="missing"):
        writer.write(state(2), tmp_path, 1)
    assert names(tmp_path) == []
    writer.write(state(3), tmp_path, 1)
    writer.write(state(4), missing, 1)
    with pytest.raises(OSError, match="missing"):
        writer.close()
    assert names(tmp_path) == ["step-00000003.safetensors"]

    with pytest.raises(OSError, match="missing"), CheckpointWriter() as writer:
        writer.write(state(5), missing, 1)
    with pytest.raises(UserError, match="of the body") as told, CheckpointWriter() as writer:
        writer.write(state(5), missing, 1)
        raise UserError("of the body")
    assert len(told.value.__notes__) == 1 and "The last checkpoint was not written either" in told.value.__notes__[0]


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = [f".step-00000004.{ended.pid}.part.safetensors", f".step-00000006.milestone.{ended.pid}.part.safetensors"]
    own_number = f".step-00000002.{os.getpid()}.part.safetensors"  # of a process before this one that had its number
    others = [f".step-00000008.{os.getppid()}.part.safetensors", f".mine.{ended.pid}.part.safetensors", ".step-00000001.part.safetensors"]
    for name in [*stale, own_number, *others, "step-00000001.safetensors"]:
        (tmp_path / name).touch()
    assert sorted(path.name for path in remove_unfinished(tmp_path)) == sorted([*stale, own_number])
    assert names(tmp_path) == sorted([*others, "step-00000001.safetensors"])


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from stpredict.checkpoint import Checkpoint, CheckpointWriter
folder = Path(sys.argv[1])
weights = {"w": torch.ones(100_000)}
first = Checkpoint(1, weights, {}).save(folder, keep=1)
for limit in (0, 100, 5000, 399_999, first.stat().st_size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for save in (lambda: Checkpoint(2, weights, {}).save(folder, 1), None):
        try:
            if save:
                save()
            else:
                with CheckpointWriter() as writer:
                    writer.write(Checkpoint(2, weights, {}), folder, 1)
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(error.errno, Path(error.filename).name, sorted(path.name for path in folder.iterdir()), Checkpoint.load(first).step)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
"""


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    line = f"{errno.EFBIG} step-00000002.safetensors ['step-00000001.safetensors'] 1"
    assert run.stdout.splitlines() == [line] * 10


# Children are forked after the imports, which would take most of the time; each tells the step that it knows to be written.
KILLED = """
import os, random, select, signal, sys, time
from pathlib import Path
import torch
from stpredict.checkpoint import Checkpoint, CheckpointWriter, newest_whole, remove_unfinished
folder, draw = Path(sys.argv[1]), random.Random(0)

def save_for_ever(told):
    remove_unfinished(folder)
    checkpoint, said = newest_whole(folder)
    assert not said
    step = checkpoint.step if checkpoint else 0
    with CheckpointWriter() as writer:
        while True:
            step += 1
            state = Checkpoint(step, {f"w{i}": torch.full((20_000,), float(step)) for i in range(10)}, {}, float(step))
            writer.write(state, folder, 2, step % 10 == 0, then=lambda written: os.write(told, b"%d\\n" % written.step))

torch.set_num_threads(1)
known = 0
for kill in range(10):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(tell)
    os.close(tell)
    assert select.select([told], [], [], 20)[0], "nothing was written"
    time.sleep(draw.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    text = b""
    while piece := os.read(told, 65536):
        text += piece
    os.close(told)
    unfinished = sum(path.name.startswith(".") for path in folder.iterdir())
    checkpoint, said = newest_whole(folder)
    before, known = known, int(text.split()[-1])
    same = all(torch.equal(tensor, torch.full((20_000,), checkpoint.best)) for tensor in checkpoint.weights.values())
    wanted = known > before and checkpoint.step >= known and checkpoint.step == checkpoint.best and same and not said
    print("good" if wanted else "bad", unfinished)
remove_unfinished(folder)
"""


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    assert [word for word, _ in lines] == ["good"] * 10
    assert sum(int(count) for _, count in lines) > 0 and max(int(count) for _, count in lines) <= 1, "some kills met a write"
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    milestones = [path for path in checkpoints(tmp_path) if "milestone" in path.name]
    assert [path.name for path in milestones] == [
        f"step-{10 * number:08d}.milestone.safetensors" for number in range(1, len(milestones) + 1)
    ]
    for path in checkpoints(tmp_path):
        Checkpoint.load(path)


def test_a_run_of_the_first_format_goes_over_to_this_one(tmp_path: Path) -> None:
    shutil.copy(FIRST_FORMAT, tmp_path)
    found, said = newest_whole(tmp_path)
    assert found is not None and said == []
    found.step = 3
    found.save(tmp_path, keep=1)
    again, _ = newest_whole(tmp_path)
    assert again is not None and again.step == 3 and len(names(tmp_path)) == 1
    assert_same(again.tensors(), found.tensors())
