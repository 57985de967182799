"""What goes on inside a recurrent network along one clip: its states, its gates, and which memories its eidetic recall looks at.

Nothing is computed twice or in another way: hooks on the layers and :func:`stpredict.cells.gates.watching_gates` look on while the rollout
makes its forecast, which stays the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stpredict.cells.attention import shares as shares_of
from stpredict.cells.eidetic import EideticLSTMCell, from_tokens, to_tokens
from stpredict.cells.gates import watching_gates
from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError, nearest
from stpredict.fitting import check_fit
from stpredict.networks.contract import Constants, DirectNetwork, Network, RecurrentNetwork, State, Step
from stpredict.networks.watched import WatchedNetwork, cells_of, highways_of
from stpredict.predictor import Predictor
from stpredict.unroll import Unroll

Part = Literal["states", "gates", "recall"]

Maps = dict[str, dict[str, NDArray[np.float64]]]
"""layer -> name -> maps ``(S, rows, columns)``, one a step, on the grid of the layer; NaN at steps where the layer had no turn."""

_STATES = ("hidden", "cell", "memory")


@dataclass(frozen=True, eq=False)
class Inside:
    """What S steps of a recurrent network along one clip were like inside.

    Step s is fed frame s, the true one in the context and its own prediction after it, and predicts frame s + 1: ``offset`` is 1. Step s
    of an encoder-forecaster reads frame s in the context, and predicts frame s after it: ``offset`` is 0.

    Attributes:
        context: observed frames.
        offset: the frame that step s is about is s + offset.
        true: ``(S + offset, C, H, W)`` the true frames, scaled; of a predictor physical, NaN = missing.
        predicted: ``(S, C, H, W)`` what each step predicts, likewise; NaN at steps that predict nothing.
        padded: rows and columns of the frames that the network saw, padded to whole patches: what the grids of the maps cover.
        states: of each layer ``hidden`` (h), ``cell`` (c) and ``memory`` (the spatiotemporal m as this layer updates it), as far as it has
            them, after the step; the mean absolute value over channels, and over the window where a layer has one. A gradient highway is a
            layer with one ``hidden``. Of a network without layers: the tensors of its state, by their places in it.
        gates: of each layer its gates, 0 shut and 1 open (the output gate of a causal LSTM is a tanh, from -1 to 1); the mean over
            channels, and over the window.
        recall: of each layer ``(S, S)``: in row s, column 0 the share of attention of the zeros before the first frame, column k that of
            the memory of step k - 1; a mean over everything that asks. NaN where there is no such memory, or none any more; what is
            there sums to 1. Steps at which the layer had no turn are NaN.
        ages: of each layer how many steps back the recalled memories were made, by their shares, as maps.
    """

    context: int
    offset: int
    true: NDArray[np.float32]
    predicted: NDArray[np.float32]
    padded: tuple[int, int]
    states: Maps
    gates: Maps
    recall: dict[str, NDArray[np.float64]]
    ages: dict[str, NDArray[np.float64]]

    def maps(self, part: Part, layers: Sequence[str] = (), name: str = "this network") -> Maps:
        """Return the maps of a part: of some layers, by their names or numbers, or of all. Those of ``recall`` are called ``steps back``.

        Raises:
            UserError: the network has no such part, or no such layer; ``name`` is what it is called.
        """
        found = {"states": self.states, "gates": self.gates}.get(part)
        if found is None:
            found = {layer: {"steps back": maps} for layer, maps in self.ages.items()}
        if not found:
            raise UserError(f"{name[:1].upper()}{name[1:]} {_LACKS[part]}")
        for wanted in layers:
            if not any(_is_called(layer, wanted) for layer in found):
                raise UserError(f"{name[:1].upper()}{name[1:]} has no layer '{wanted}' with {part}{nearest(wanted, found)}")
        return {layer: found[layer] for layer in found if not layers or any(_is_called(layer, wanted) for wanted in layers)}

    def looked_at(self, layer: str, nothing: float) -> NDArray[np.float32]:
        """Return what the recall of a layer looks at, in frames: ``(S, C, H, W)``, the frames fed before each step, weighted by its shares.

        ``nothing`` is the value that stands for what was before the first frame.
        """
        fed = np.concatenate([self.true[: self.context], self.predicted[self.context - self.offset :]])
        seen = np.full_like(self.predicted, nothing)
        for step, shares in enumerate(np.nan_to_num(self.recall[layer]).astype(np.float32)):
            seen[step] = shares[0] * nothing + np.tensordot(shares[1 : step + 1], fed[:step], axes=1)
        return seen


def _is_called(layer: str, wanted: str) -> bool:
    return wanted in (layer, layer.rpartition(".")[2])


_LACKS = {
    "states": "keeps no maps in its state: there is nothing to look at",
    "gates": "has no gates: look at its states instead",
    "recall": "recalls nothing: only the cells of e3d_lstm look back at past memories; look at its states or gates instead",
}


def means(maps: Maps) -> dict[str, dict[str, list[float]]]:
    """Return the mean of each map: layer -> name -> a number a step."""
    return {layer: {name: film.mean(axis=(1, 2)).tolist() for name, film in named.items()} for layer, named in maps.items()}


def look_inside(
    network: Network,
    frames: Tensor,
    context: int,
    horizon: int,
    *,
    valid: Tensor | None = None,
    known: Tensor | None = None,
    fill: float = 0.0,
) -> Inside:
    """Look on while a network forecasts one clip.

    Args:
        network: a recurrent network. Its layers are the modules of an ``nn.ModuleList`` called ``cells``, each returning its h, or h, c
            and m as far as it has them; what it calls ``ghu``, a gradient highway, is a layer too.
        frames: scaled ``(1, T, C, H, W)``, T = context + horizon; those after the context are not fed.
        context: observed frames.
        horizon: frames to forecast.
        valid: ``(1, T, C, H, W)`` bool, True where a value exists.
        known: ``(1, T, K, H, W)`` known inputs.
        fill: the scaled value of missing pixels.

    Raises:
        UserError: the network has no steps.
    """
    if isinstance(network, DirectNetwork):
        raise UserError("A direct network forecasts all frames at once: it takes no steps in time, so it has no states, gates or recall")
    assert frames.shape[:2] == (1, context + horizon), "one clip, whole"
    with torch.inference_mode(), _Observed(network) as observed:
        predictions, _ = Unroll(observed, fill).forward(frames, context, horizon, None, valid, known)
    offset = 1 if network.predicts_context else 0
    true = frames[0].cpu().numpy()
    predicted = np.full_like(true[offset:], np.nan)
    predicted[len(predicted) - predictions.shape[1] :] = predictions[0].to(frames.dtype).cpu().numpy()
    states, gates, ages = (_stacked(seen, observed.steps) for seen in (observed.states, observed.gates, observed.ages))
    recall = {layer: np.full((observed.steps, observed.steps), np.nan) for layer in observed.shares}
    for layer, rows in observed.shares.items():
        for step, row in rows.items():
            recall[layer][step, step + 1 - len(row) : step + 1] = row
    return Inside(
        context, offset, true, predicted, observed.padded, states, gates, recall, {layer: named["recall"] for layer, named in ages.items()}
    )


def inside_of_predictor(predictor: Any, data: ClipSet, clip: int = 0) -> Inside:
    """Look on while a predictor forecasts one clip of a split; frames become physical.

    Raises:
        UserError: it has no network, or a direct one, or does not fit the data, or there is no such clip.
    """
    if not isinstance(predictor, Predictor):
        raise UserError(f"'{predictor.name}' is no trained predictor: it has no network to look into")
    check_fit(predictor.name, predictor, data)
    if not 0 <= clip < len(data) and not data.endless:
        raise UserError(f"The split '{data.split}' of '{data.card}' has clips 0 to {len(data) - 1}, not {clip}")
    batch = collate([(clip, data[clip])])
    physical = batch.physical(data.packing, predictor.device)
    scaled, valid = predictor.spec.scale(physical)
    known = None if batch.known is None else batch.known.to(predictor.device)
    fill = predictor.spec.scaled_fill
    inside = look_inside(predictor.network, scaled, data.context, data.horizon, valid=valid, known=known, fill=fill)
    predicted = predictor.spec.unscale(torch.from_numpy(inside.predicted).to(predictor.device)).cpu().numpy()
    return replace(inside, true=physical[0].cpu().numpy(), predicted=predicted)


Seen = dict[str, dict[str, dict[int, NDArray[np.float64]]]]
"""layer -> name -> step -> a map."""


def _stacked(seen: Seen, steps: int) -> Maps:
    stacked: Maps = {}
    for layer, named in seen.items():
        stacked[layer] = {}
        for name, maps in named.items():
            film = np.full((steps, *next(iter(maps.values())).shape), np.nan)
            film[list(maps)] = list(maps.values())
            stacked[layer][name] = film
    return stacked


class _Observed(WatchedNetwork):
    """A network as it is, which is looked into while a context lasts."""

    def __init__(self, network: RecurrentNetwork) -> None:
        super().__init__(network)
        self.states: Seen = {}
        self.gates: Seen = {}
        self.ages: Seen = {}
        self.shares: dict[str, dict[int, NDArray[np.float64]]] = {}
        self.padded = (0, 0)
        self._layers = cells_of(network) | highways_of(network)
        self._at_work: list[tuple[str, nn.Module, tuple[Any, ...]]] = []
        self._looking = ExitStack()

    def __enter__(self) -> _Observed:
        for name, module in self._layers.items():
            self._looking.callback(module.register_forward_pre_hook(self._begin(name)).remove)
            self._looking.callback(module.register_forward_hook(self._end).remove)
        self._looking.enter_context(watching_gates(self._take_gate))
        return self

    def __exit__(self, *_: object) -> None:
        self._looking.close()

    def initial_state(self, batch: int, height: int, width: int) -> State:
        """Return the network's, and keep the size of its frames."""
        self.padded = (height, width)
        return super().initial_state(batch, height, width)

    def step(self, frame: Tensor | None, state: State, constants: Constants, known: Tensor | None = None) -> Step:
        """Let the network take a step; if it has no layers, its state is looked at itself."""
        made = super().step(frame, state, constants, known)
        if not self._layers:
            leaves, _ = pytree.tree_flatten_with_path(made.state)
            for path, leaf in leaves:
                if isinstance(leaf, Tensor):
                    self._keep(self.states, "state", pytree.keystr(path) or "state", leaf.abs(), self.steps - 1)
        return made

    def _begin(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._at_work.append((name, module, inputs))

        return begin

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        layer, _, _ = self._at_work.pop()
        parts = (output,) if isinstance(output, Tensor) else output
        for number, part in enumerate(parts):
            # A memory may come with what was added to it.
            tensor = part if isinstance(part, Tensor) else part[0]
            name = _STATES[number] if number < len(_STATES) else f"state {number}"
            self._keep(self.states, layer, name, tensor.abs(), self.steps)

    def _take_gate(self, name: str, opened: Tensor) -> None:
        layer, module, inputs = self._at_work[-1] if self._at_work else ("network", self.network, ())
        self._keep(self.gates, layer, name, opened, self.steps)
        if name == "recall" and isinstance(module, EideticLSTMCell):
            _, _, c, _, pool = inputs
            opened = opened.expand_as(c)
            shares = shares_of(to_tokens(opened, module.tokens), pool).double()
            ages = shares @ torch.arange(len(pool), 0, -1, dtype=torch.float64, device=shares.device)
            features = ages[:, :, None].expand(-1, -1, opened[0].numel() // ages.shape[1])
            self._keep(self.ages, layer, name, from_tokens(features, opened.shape, module.tokens), self.steps)
            self.shares.setdefault(layer, {})[self.steps] = shares[0].mean(dim=0).cpu().numpy()

    def _keep(self, seen: Seen, layer: str, name: str, tensor: Tensor, step: int) -> None:
        """Keep the mean over all but the grid of one clip's ``(1, C, ..., rows, columns)``; what has no grid is no map."""
        if tensor.ndim < 4:
            return
        grid = tensor[0].double().flatten(0, -3).mean(dim=0)
        seen.setdefault(layer, {}).setdefault(name, {})[step] = grid.cpu().numpy()


def enlarged(maps: NDArray[np.float64], padded: Sequence[int], height: int, width: int) -> NDArray[np.float64]:
    """Return maps ``(S, rows, columns)`` as ``(S, height, width)``: each pixel of the frames has the value of the place that it lies in."""
    rows, columns = (np.arange(size) * grid // whole for size, grid, whole in zip((height, width), maps.shape[1:], padded, strict=True))
    return maps[:, rows[:, None], columns]
