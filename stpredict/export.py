"""Predictors as programs that run without stpredict: ``.pt2`` (torch.export) and ``.onnx``.

The *forecast* program is :meth:`stpredict.predictor.Predictor.forecast` with fixed context and horizon: ``observed``
``(B, context, C, H, W)``, physical, NaN = missing, and where the network takes them ``known`` ``(B, context + horizon, K, H, W)``, become
``forecast`` ``(B, horizon, C, H, W)``, physical.

The *step* program is one step of a recurrent network: ``frame`` ``(B, C, H, W)``, scaled, filled and padded to whole patches, with the
mask of valid pixels as C more channels where the network takes it; ``known`` ``(B, K, H, W)`` where it takes that; and ``state_0``,
``state_1``, ..., zeros before the first step. They become ``next_frame`` and ``next_state_0``, ``next_state_1``, ...

JSON beside the program, ``stpredict.json`` in a ``.pt2`` and the metadata ``stpredict`` of an ``.onnx``, says what the predictor is.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stpredict import unroll
from stpredict.draws import Draws
from stpredict.errors import UserError, import_optional
from stpredict.files import whole_file
from stpredict.frames import FrameSpec
from stpredict.kernels import using
from stpredict.networks import DirectNetwork, Network, RecurrentNetwork, given_channels
from stpredict.predictor import Predictor
from stpredict.residual import Residual

Program = Literal["forecast", "step"]

TOLERANCE = 1e-5
"""The most by which what an exported program gives may differ, in scaled values; where some exceed 1, relative to the largest."""

_ONNX_LIMIT = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file, with room for the graph."""


def export_predictor(
    predictor: Predictor, path: str | Path, *, what: Program = "forecast", horizon: int | None = None, batch: int | None = None
) -> Path:
    """Write a predictor as a program, once it has been seen to give the same numbers.

    Args:
        predictor: the predictor.
        path: where to, ending in ``.pt2`` or ``.onnx``.
        what: ``forecast``, or ``step`` for one step of a recurrent network.
        horizon: frames to forecast; None: as many as the predictor was trained for.
        batch: B, clips at a time; None: any number.

    Raises:
        UserError: the network, or its step, cannot be exported, a library is missing, or the program gives other numbers.
    """
    path = Path(path)
    write = {".pt2": _write_torch, ".onnx": _write_onnx}.get(path.suffix)
    if write is None:
        raise UserError(f"A program is written as .pt2 or .onnx, not '{path.suffix}': {path}")
    if isinstance(predictor.network, Residual) and predictor.network.base == "extrapolation":
        raise UserError(f"'{predictor.name}' follows motion by OpenCV, of which no program can be made: train it with base: persistence")
    if what == "step" and horizon is not None:
        raise UserError("A step is one step: 'horizon' belongs to the program 'forecast'")
    for name, count in {"horizon": horizon, "batch": batch}.items():
        if count is not None and count < 1:
            raise UserError(f"'{name}' must be at least 1, not {count}")
    if predictor.device.type != "cpu":
        predictor = copy.copy(predictor)
        predictor.network = copy.deepcopy(predictor.network).cpu()
    with torch.no_grad(), _quiet(), using("reference"):  # a program is of torch's own operations
        plan = _plan_step(predictor) if what == "step" else _plan_forecast(predictor, predictor.horizon if horizon is None else horizon)
        program = _trace(plan, batch)
        with whole_file(path) as temporary:
            run = write(program, plan, temporary)
            for rows in (1, 3) if batch is None else (batch,):
                _compare(plan, run, plan.sample(rows))
    return path


@dataclass(frozen=True)
class Plan:
    """What is to be exported.

    Attributes:
        module: what the program does.
        inputs: the names of what it takes, in order.
        outputs: the names of what it gives, in order.
        sample: makes inputs of so many rows, to look at what the program gives.
        expected: what it must give for them.
        scale: brings what it gives to scaled values.
        about: what is written beside the program.
    """

    module: nn.Module
    inputs: list[str]
    outputs: list[str]
    sample: Callable[[int], tuple[Tensor, ...]]
    expected: Callable[..., Sequence[Tensor]]
    scale: Callable[[Tensor], Tensor]
    about: dict[str, Any]


class ForecastProgram(nn.Module):
    """A forecast from ``context`` frames, in physical units."""

    def __init__(self, network: Network, spec: FrameSpec, horizon: int) -> None:
        super().__init__()
        self.network, self.spec, self.horizon = network, spec, horizon

    def forward(self, observed: Tensor, known: Tensor | None = None) -> Tensor:
        """Take ``(B, context, C, H, W)``, NaN = missing, and return ``(B, horizon, C, H, W)``."""
        along = unroll.Unroll(self.network, self.spec.scaled_fill)
        frames, valid = self.spec.scale(observed)
        future, _ = along.forward(frames, observed.shape[1], self.horizon, None, valid, known)
        return self.spec.unscale(future[:, -self.horizon :])


class StepProgram(nn.Module):
    """One step of a recurrent network, its state as a plain list of tensors."""

    def __init__(self, network: RecurrentNetwork, layout: pytree.TreeSpec, holes: Sequence[bool]) -> None:
        super().__init__()
        self.network, self.layout, self.holes = network, layout, tuple(holes)
        self.takes_known = given_channels(network) > 0

    def forward(self, frame: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Take a frame, what is known of the next if the network takes that, and the state; return the next frame and state."""
        known, parts = (rest[0], rest[1:]) if self.takes_known else (None, rest)
        given = iter(parts)
        if self.network.noise_channels:  # a step by itself is one of the forecast without noise
            quiet = frame.new_zeros(frame.shape[0], self.network.noise_channels, *frame.shape[-2:])
            known = quiet if known is None else torch.cat([known, quiet], dim=1)
        state = pytree.tree_unflatten([None if hole else next(given) for hole in self.holes], self.layout)
        made, state, _ = self.network.step(frame, state, self.network.prepare(frame.shape[0]), known)
        assert made is not None, "a network that predicts its context makes a frame at every step"
        return made, *_tensors(state)


def _plan_forecast(predictor: Predictor, horizon: int) -> Plan:
    network, spec, context = predictor.network, predictor.spec, predictor.context
    extra = given_channels(network)

    def sample(rows: int) -> tuple[Tensor, ...]:
        draws = Draws(0, 0, tuple(range(rows)))
        observed = spec.transform.unscale(draws.uniform("export", context, *spec.shape).float())
        observed[:, :, :, 0, 0] = torch.nan
        return (observed, draws.normal("export known", context + horizon, extra, spec.height, spec.width))[: 2 if extra else 1]

    def expected(observed: Tensor, known: Tensor | None = None) -> tuple[Tensor]:
        return (predictor.forecast(observed, horizon, known=known),)

    return Plan(
        module=ForecastProgram(network, spec, horizon),
        inputs=["observed", "known"][: 2 if extra else 1],
        outputs=["forecast"],
        sample=sample,
        expected=expected,
        scale=spec.transform.scale,
        about=_about(predictor, "forecast", horizon),
    )


def _plan_step(predictor: Predictor) -> Plan:
    network, spec, name = predictor.network, predictor.spec, predictor.network_name
    instead = f"cannot be exported by itself; export the forecast of '{predictor.name}' instead"
    if isinstance(network, DirectNetwork):
        raise UserError(f"'{name}' forecasts its whole horizon at once: a step of it {instead}")
    if not network.predicts_context:
        raise UserError(f"'{name}' takes frames in and gives frames out in steps of different kinds: one of them {instead}")
    height, width = (side + -side % network.patch_size for side in (spec.height, spec.width))
    extra = given_channels(network)
    channels = spec.channels * (2 if network.takes_valid else 1)
    leaves, layout = pytree.tree_flatten(network.initial_state(1, height, width))
    state = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len(state) != sum(leaf is not None for leaf in leaves) or any(bool(part.any()) for part in state):
        raise UserError(f"The state of '{name}' is not zeros before the first step: a step {instead}")
    module = StepProgram(network, layout, [leaf is None for leaf in leaves])

    def sample(rows: int) -> tuple[Tensor, ...]:
        draws = Draws(0, 0, tuple(range(rows)))
        frame = draws.uniform("export", channels, height, width).float()
        known = [draws.normal("export known", extra, height, width)] if extra else []
        return frame, *known, *_tensors(network.initial_state(rows, height, width))

    _, *later = module(*sample(1))
    if [part.shape for part in later] != [part.shape for part in state]:
        raise UserError(f"The state of '{name}' grows from step to step: a step {instead}")

    def after_one(rows: int) -> tuple[Tensor, ...]:
        """Inputs with a state that is not zeros any more."""
        inputs = sample(rows)
        return *inputs[: len(inputs) - len(state)], *module(*inputs)[1:]

    numbered = [f"state_{number}" for number in range(len(state))]
    return Plan(
        module=module,
        inputs=["frame", *(["known"] if extra else []), *numbered],
        outputs=["next_frame", *(f"next_{part}" for part in numbered)],
        sample=after_one,
        expected=module,
        scale=lambda made: made,
        about=_about(predictor, "step", None) | {"state": [list(part.shape[1:]) for part in state]},
    )


def _tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]


def _about(predictor: Predictor, what: Program, horizon: int | None) -> dict[str, Any]:
    about = {**predictor.header(), "program": what, "predictor": predictor.name}
    return about if horizon is None else {**about, "horizon": horizon}


def _trace(plan: Plan, batch: int | None) -> torch.export.ExportedProgram:
    """Follow a module once; ``batch`` None leaves the number of rows open."""
    from torch._dynamo.exc import UserError as TracingError
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    inputs = plan.sample(2 if batch is None else batch)
    rows = {0: torch.export.Dim("batch")}
    by_argument: Any = {"forecast": (rows,) * len(inputs), "step": (rows, (rows,) * (len(inputs) - 1))}
    shapes = by_argument[plan.about["program"]] if batch is None else None
    try:
        return torch.export.export(plan.module, inputs, dynamic_shapes=shapes, strict=False)
    except GuardOnDataDependentSymNode:
        name = plan.about["network"]["name"]
        raise UserError(f"'{name}' cannot be exported, since what it computes depends on the frames") from None
    except TracingError as error:
        if batch is not None:
            raise
        name, reason = plan.about["network"]["name"], str(error).splitlines()[0]
        raise UserError(f"'{name}' cannot be exported for any number of clips at a time; say how many with 'batch' ({reason})") from None


def _write_torch(program: torch.export.ExportedProgram, plan: Plan, path: Path) -> Callable[..., Sequence[Tensor]]:
    """Write a ``.pt2`` and return what the file does."""
    torch.export.save(program, path, extra_files={"stpredict.json": json.dumps(plan.about)})
    run = torch.export.load(path).module()

    def ask(*inputs: Tensor) -> Sequence[Tensor]:
        made = run(*inputs)
        return (made,) if isinstance(made, Tensor) else tuple(made)

    return ask


def _write_onnx(program: torch.export.ExportedProgram, plan: Plan, path: Path) -> Callable[..., Sequence[Tensor]]:
    """Write an ``.onnx`` and return what the file does."""
    for library in ("onnx", "onnxscript"):
        import_optional(library, "onnx")
    runtime = import_optional("onnxruntime", "onnx")
    weights = sum(weight.nbytes for weight in plan.module.state_dict().values())
    if weights > _ONNX_LIMIT:
        raise UserError(f"One ONNX file holds 2 GiB, and the weights alone take {weights / 2**30:.1f} GiB: export to .pt2")
    try:
        made = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=plan.inputs, output_names=plan.outputs)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise UserError(f"'{plan.about['network']['name']}' cannot be written as ONNX: export to .pt2 ({reason})") from None
    assert made is not None, "an exported program becomes an ONNX program"
    made.model.metadata_props["stpredict"] = json.dumps(plan.about)
    made.save(path)
    loaded = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def ask(*inputs: Tensor) -> Sequence[Tensor]:
        named = {name: part.numpy() for name, part in zip(plan.inputs, inputs, strict=True)}
        return [torch.from_numpy(part) for part in loaded.run(plan.outputs, named)]

    return ask


def _compare(plan: Plan, run: Callable[..., Sequence[Tensor]], inputs: tuple[Tensor, ...]) -> None:
    """Refuse a program that gives other numbers.

    Raises:
        UserError: it does.
    """
    for name, wanted, given in zip(plan.outputs, plan.expected(*inputs), run(*inputs), strict=True):
        assert given.shape == wanted.shape, f"{name} is {tuple(given.shape)} instead of {tuple(wanted.shape)}"
        aim = plan.scale(wanted)
        difference = float((plan.scale(given) - aim).abs().max() / aim.abs().max().clamp(min=1.0))
        if not difference <= TOLERANCE:
            raise UserError(
                f"The exported program was not kept: its '{name}' differs by {difference:.1e} from what the predictor gives, "
                f"by more than {TOLERANCE:.0e}; export in the other format, or a shorter horizon"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what torch says about itself: operators of libraries that are absent, and its own outdated calls."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
