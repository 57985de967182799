"""How well a network does on the validation split, and what that looks like."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stpredict.data.clips import ClipSet
from stpredict.data.loader import batches, collate, ordered
from stpredict.devices import autocast, carry
from stpredict.draws import Draws
from stpredict.frames import Batch
from stpredict.losses import by_member
from stpredict.losses.pixels import L2
from stpredict.render import Panel, save_curves
from stpredict.showing import show_panels
from stpredict.training.compiling import as_written
from stpredict.training.run import Log, Run
from stpredict.training.work import Work


def validate(work: Work, clips: ClipSet) -> dict[str, float]:
    """Forecast the validation clips as a user would, from the context alone.

    Returns:
        ``validation_loss``: the training loss over the future; ``validation_mse``: the mean squared error of scaled, valid pixels of
        the future, by which the best predictor is chosen. Both over all processes, each clip once. Where the loss is of an ensemble, so
        many members are forecast, with the same draws at every validation; the squared error is that of their mean, and the loss chooses.
    """
    limit = work.settings.trainer.validation_clips
    count = len(clips) if limit is None else min(limit, len(clips))
    order = ordered(count, work.settings.data.batch_size, work.processes.rank, work.processes.count)
    sums = torch.zeros(4, dtype=torch.float64, device=work.device)
    for batch in batches(clips, order):
        future, truth, valid = forecast(work, clips, batch)
        mean = future if work.members == 1 else future.mean(1)
        figures = [*work.loss(future, truth, valid), *L2()(mean, truth, valid)]
        sums += torch.stack([figure.double() for figure in figures])
    loss, loss_count, squared, pixels = work.processes.sum(sums).tolist()
    return {"validation_loss": loss / max(loss_count, 1.0), "validation_mse": squared / max(pixels, 1.0)}


@torch.no_grad()
def forecast(work: Work, clips: ClipSet, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return forecast, truth and mask of the future, ``(B, horizon, C, H, W)``, the first two scaled.

    The forecast is ``(B, M, horizon, C, H, W)`` where the loss is of an ensemble.
    """
    truth, valid = clips.spec.scale(batch.physical(clips.packing, work.device))
    known = None if batch.known is None else carry(batch.known, work.device)
    context, horizon, members = clips.context, clips.horizon, work.members
    observed, seen, draws = truth[:, :context], valid[:, :context], None
    if members > 1:
        draws = Draws(work.settings.seed, 0, batch.indices).of_members(members)
        observed, seen = observed.repeat_interleave(members, 0), seen.repeat_interleave(members, 0)
        known = None if known is None else known.repeat_interleave(members, 0)
    work.network.eval()
    with autocast(work.device, work.settings.trainer.precision), as_written(work.settings.trainer.compile):
        predictions, _ = work.along.forward(observed, context, horizon, None, seen, known, draws)
    work.network.train()
    return by_member(predictions[:, -horizon:].float(), members), truth[:, -horizon:], valid[:, -horizon:]


def draw_pictures(work: Work, run: Run, log: Log, step: int, moving: bool = False) -> dict[str, Path]:
    """Draw the curves so far and the first validation clip, true beside predicted.

    Args:
        work: what is trained.
        run: where the pictures go.
        log: holds the curves.
        step: training steps taken.
        moving: draw the clip as a film too, for trackers that play it.

    Returns:
        The files by name: ``forecast`` (PNG), ``curves`` (PNG) and, if ``moving``, ``film`` (GIF).
    """
    clips = work.validation
    assert clips is not None, "pictures are drawn at validations"
    clip = clips[0]
    batch = collate([(0, clip)])
    physical = batch.physical(clips.packing, "cpu")[0]
    future, _, _ = forecast(work, clips, batch)
    first = future[0]
    shown = {"predicted": first} if first.ndim == physical.ndim else {"mean of members": first.mean(0), "a member": first[0]}
    names = {"forecast": f"step-{step:08d}.png"} | ({"film": f"step-{step:08d}.gif"} if moving else {})
    files = {name: run.pictures / file for name, file in names.items()}
    panels = [Panel("true", physical.numpy())]
    for title, scaled in shown.items():
        predicted = torch.full_like(physical, torch.nan)
        predicted[clips.context :] = clips.spec.unscale(scaled).cpu()
        panels.append(Panel(title, predicted.numpy()))
    for path in files.values():
        show_panels(panels, clips.spec, path, context=clips.context, times=clip.times, grid=clips.grid(0))
    files["curves"] = run.pictures / "curves.png"
    columns = {name: log.column(name) for name in ("loss", "validation_loss", "learning_rate")}
    save_curves({name: column for name, column in columns.items() if column}, files["curves"], title=run.folder.name)
    return files
