"""A predictor: a trained network with what its numbers mean, enough to forecast; and its one self-describing file.

The file is a ``.safetensors`` with the weights by the network's own parameter names, float32 or narrower, and in its header,
under ``stpredict``, JSON with the format version, network and settings, frame spec, context, horizon and provenance.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import stpredict
from stpredict import extensions, unroll
from stpredict.arrays import take_film
from stpredict.baselines import BASELINES
from stpredict.draws import Draws
from stpredict.errors import UserError, nearest
from stpredict.files import write_tensors
from stpredict.forecasts import open_forecasts
from stpredict.frames import FrameSpec
from stpredict.networks import NETWORKS, DirectNetwork, Network, given_channels, make_network, names_of_networks
from stpredict.patches import pad_to_patches
from stpredict.shipped import find_shipped, read_index

FORMAT = 1
"""Version of the predictor file; a newer one than this is refused."""


class Predictor:
    """A trained network and its frame spec.

    Attributes:
        name: what tables and films call it.
        network: the network, in evaluation mode.
        spec: what the numbers of its frames mean.
        context: observed frames that it was trained with.
        horizon: frames that it was trained to forecast.
        network_name: the network's name, as :func:`stpredict.create_network` knows it.
        network_settings: its settings.
        provenance: where it comes from: run, step, data, version; plain data.
    """

    def __init__(
        self,
        network: Network,
        spec: FrameSpec,
        context: int,
        horizon: int,
        *,
        network_name: str,
        network_settings: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> None:
        self.name = name or network_name
        self.network, self.spec, self.context, self.horizon = network.eval(), spec, context, horizon
        self.network_name, self.network_settings, self.provenance = network_name, dict(network_settings), dict(provenance or {})

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next((weight.device for weight in self.network.parameters()), torch.device("cpu"))

    def data_changes(self, card: str) -> dict[str, Any]:
        """Return what training changed in its card, as :func:`stpredict.load_data` takes it; nothing if ``card`` is another."""
        data = self.provenance.get("data", {})
        changed = ("every", "crop", "resize", "settings") if data.get("card") == card else ()
        return {name: data[name] for name in changed if data.get(name)}

    def to(self, device: torch.device | str) -> Predictor:
        """Move the weights and return the predictor."""
        self.network.to(device)
        return self

    def forecast(
        self,
        observed: Any,
        horizon: int,
        *,
        members: int | None = None,
        known: Any = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> Any:
        """Forecast what follows.

        Args:
            observed: ``(B, K, C, H, W)`` in physical units, NaN = missing: a tensor, an array or an xarray.DataArray.
            horizon: frames to forecast, at least 1; it may be longer than the predictor was trained for.
            members: M, the size of an ensemble. Members of a network that draws nothing at random are equal.
            known: ``(B, K + horizon, K', H, W)`` inputs known for every step, for a network that takes them.
            seed: of what the members draw. Without members nothing is drawn, and noise inputs are zero.
            indices: the number of each clip in its data, so that its members are the same in whatever batch it stands; None: its place.

        Returns:
            ``(B, horizon, C, H, W)``, or ``(B, M, horizon, C, H, W)`` with members, in physical units, of the kind of ``observed``.

        Raises:
            UserError: the frames do not fit the predictor.
        """
        frames, restore = take_film(observed, self.spec.time_step)
        self._check(frames, horizon)
        if members is not None and members < 1:
            raise UserError(f"An ensemble has at least one member, not {members}")
        known = None if known is None else torch.as_tensor(known, dtype=torch.float32).to(self.device)
        if known is not None and known.shape[:2] != (len(frames), frames.shape[1] + horizon):
            raise UserError(f"known must cover all {frames.shape[1]} + {horizon} steps, not {tuple(known.shape)}")
        with torch.inference_mode():
            scaled, valid = self.spec.scale(frames.to(self.device))
            if isinstance(self.network, DirectNetwork) and scaled.shape[1] > self.context:
                scaled, valid = scaled[:, -self.context :], valid[:, -self.context :]
                known = None if known is None else known[:, -self.context - horizon :]
            copies = members if members is not None and self.network.stochastic else 1
            if copies > 1:
                scaled, valid = scaled.repeat_interleave(copies, 0), valid.repeat_interleave(copies, 0)
                known = None if known is None else known.repeat_interleave(copies, 0)
            numbers = tuple(range(len(frames)) if indices is None else indices)
            draws = None if members is None else Draws(seed, 0, numbers).of_members(copies)
            along = unroll.Unroll(self.network, self.spec.scaled_fill)
            predictions, _ = along.forward(scaled, scaled.shape[1], horizon, None, valid, known, draws)
            future = self.spec.unscale(predictions[:, -horizon:]).to(frames.device)
        if members is not None:
            future = future.reshape(len(frames), copies, *future.shape[1:]).expand(-1, members, *[-1] * 4)
        return restore(future)

    def start(self, observed: Any, known: Any = None) -> Stream:
        """Start a stream from observed frames ``(B, K, C, H, W)``, physical, NaN = missing; ``known`` is ``(B, K, K', H, W)``."""
        return Stream(self, observed, known)

    def _check(self, frames: Tensor, horizon: int) -> None:
        if horizon < 1:
            raise UserError(f"The horizon must be at least 1 frame, not {horizon}")
        if frames.shape[2] != self.spec.channels:
            raise UserError(f"The predictor '{self.name}' takes frames of {self.spec.channels} channels, not {frames.shape[2]}")
        self._check_scale(frames)
        if isinstance(self.network, DirectNetwork) and frames.shape[1] < self.context:
            raise UserError(f"The predictor '{self.name}' needs {self.context} observed frames and was given {frames.shape[1]}")

    def _check_scale(self, frames: Tensor) -> None:
        """Refuse plain intensities that are far beyond those that the predictor knows; what has a unit may be as great as it is."""
        if self.spec.units != "1":
            return
        low, high, found = self.spec.transform.low, self.spec.transform.high, frames[~frames.isnan()]
        far = 10 * (high - low)
        if not found.numel():
            return
        least, most = (float(end) for end in found.aminmax())
        if least < low - far or most > high + far:
            cure = "divide them by 255" if (low, high) == (0, 1) and least >= 0 and most <= 255 else f"scale them to {low:g} to {high:g}"
            raise UserError(
                f"The predictor '{self.name}' takes values from {low:g} to {high:g}, and these reach from {least:g} to {most:g}: {cure}"
            )

    def save(self, path: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the predictor file, whole or not at all; with ``weights`` by name in place of the network's own, if given."""
        header = {"format": FORMAT, **self.header()}
        write_tensors(path, self.network.state_dict() if weights is None else weights, {"stpredict": json.dumps(header)})

    def header(self) -> dict[str, Any]:
        """Return all but the weights, as plain data."""
        return {
            "version": stpredict.__version__,
            "network": {"name": self.network_name, "settings": self.network_settings},
            "spec": self.spec.to_dict(),
            "context": self.context,
            "horizon": self.horizon,
            "provenance": self.provenance,
        }


class Stream:
    """A film that goes on: each new frame costs one step, and a forecast equals one made from all frames seen.

    Where there are known inputs the newest frame waits until it is known what follows it, another observed frame or a forecast, since a
    step is given the known inputs of the frame that it predicts.
    """

    def __init__(self, predictor: Predictor, observed: Any, known: Any = None) -> None:
        frames, self._restore = take_film(observed, predictor.spec.time_step)
        predictor._check(frames, horizon=1)
        self.predictor, self.shape = predictor, frames.shape
        self._window = frames[:, :0]
        self._known = None if known is None else known[:, :0]
        self._place: unroll.Place | None = None
        waits = known is not None or given_channels(predictor.network) > 0
        self._keep = predictor.context if isinstance(predictor.network, DirectNetwork) else int(waits)
        self._take(frames, known)

    def observe(self, frame: Any, known: Any = None) -> None:
        """Take the next observed frame ``(B, C, H, W)``, physical, NaN = missing; ``known`` is ``(B, K', H, W)``."""
        frames, _ = take_film(frame[:, None])
        if frames.shape[2:] != self.shape[2:] or len(frames) != self.shape[0]:
            raise UserError(f"The stream takes frames of shape {(self.shape[0], *self.shape[2:])}, not {(len(frames), *frames.shape[2:])}")
        self._take(frames, None if known is None else known[:, None])

    def forecast(self, horizon: int, known: Any = None) -> Any:
        """Forecast ``(B, horizon, C, H, W)`` in physical units; ``known`` is ``(B, horizon, K', H, W)``."""
        predictor, network = self.predictor, self.predictor.network
        if horizon < 1:
            raise UserError(f"The horizon must be at least 1 frame, not {horizon}")
        if isinstance(network, DirectNetwork):
            along = None if known is None or self._known is None else torch.cat([self._known, torch.as_tensor(known)], dim=1)
            return self._restore(predictor.forecast(self._window, horizon, known=along))
        with torch.inference_mode():
            known = self._pad(known)
            place = self._step(self._window, None if known is None else known[:, :1]) if self._keep else self._place
            assert place is not None, "a stream begins with a frame"
            future = unroll.finish(network, place, horizon, known)
            height, width = self.shape[-2:]
            return self._restore(predictor.spec.unscale(future[..., :height, :width]).to(self._window.device))

    def _take(self, frames: Tensor, known: Any) -> None:
        """Feed all frames but those kept waiting."""
        window = torch.cat([self._window, frames], dim=1)
        if known is not None:
            known = torch.as_tensor(known, dtype=torch.float32)
            self._known = known if self._known is None else torch.cat([torch.as_tensor(self._known), known], dim=1)
        past = max(0, window.shape[1] - self._keep)
        if past and not isinstance(self.predictor.network, DirectNetwork):
            with torch.inference_mode():
                following = None if self._known is None else self._pad(self._known[:, 1 : past + 1])
                self._place = self._step(window[:, :past], following)
        self._window = window[:, past:]
        self._known = None if self._known is None else self._known[:, past:]

    def _step(self, frames: Tensor, known: Tensor | None) -> unroll.Place:
        network, spec = self.predictor.network, self.predictor.spec
        assert not isinstance(network, DirectNetwork), "a direct network has no place"
        scaled, valid = unroll.complete(network, *spec.scale(frames.to(self.predictor.device)), spec.scaled_fill)
        place = self._place or unroll.begin(network, len(scaled), *scaled.shape[-2:])
        return unroll.advance(network, place, scaled.shape[1], scaled, None, valid, known)[1]

    def _pad(self, known: Any) -> Tensor | None:
        if known is None:
            return None
        return pad_to_patches(torch.as_tensor(known, dtype=torch.float32).to(self.predictor.device), self.predictor.network.patch_size, 0.0)


def load_predictor(source: str | Path, *, allow: Collection[str] = (), device: torch.device | str = "cpu") -> Any:
    """Load what can stand wherever a predictor is scored or shown.

    Args:
        source: a predictor file, a run folder (its best predictor, or its last where there was no validation), the name of a
            shipped predictor or of a baseline (it goes before a file or folder so called; that is ``./name``), or saved forecasts: a
            forecast file (``.npz``, ``.h5``), OpenSTL's folder of saved arrays or a ``.npy``, a nowcast
            (``.nc``, or what ``stpredict forecast`` writes) or a folder of them.
        allow: code that the file may name, as ``package.module:Class``; a run's own config allows what it names.
        device: where the weights go.

    Returns:
        a :class:`Predictor`, a baseline or :class:`~stpredict.forecasts.SavedForecasts`; it bears the source's last part as name.

    Raises:
        UserError: there is no such thing, the file is damaged, or names code that nobody allowed.
    """
    path = Path(source)
    if str(source) in BASELINES:
        return BASELINES[str(source)]()
    if str(source) in (shipped := read_index()):
        predictor = read_predictor(find_shipped(str(source)), device=device)
        predictor.name = str(source)
        return predictor
    if path.is_dir():
        files = [path / "best.safetensors", path / "last.safetensors"]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            if (saved := open_forecasts(path)) is not None:
                return saved
            raise UserError(f"The folder {path} holds no predictor yet: neither best.safetensors nor last.safetensors")
        predictor = read_predictor(found, allow=[*allow, *_named_by_run(path)], device=device)
        predictor.name = path.resolve().name
        return predictor
    if path.is_file():
        if (saved := open_forecasts(path)) is not None:
            return saved
        return read_predictor(path, allow=allow, device=device)
    known = nearest(str(source), [*shipped, *BASELINES])
    raise UserError(f"There is no predictor '{source}': neither a file, nor a run folder, nor a shipped predictor, nor a baseline{known}")


def is_known_name(source: str | Path) -> bool:
    """Whether this names a shipped predictor or a baseline, and so no file."""
    return str(source) in BASELINES or str(source) in read_index()


def free_name(name: str, taken: Container[str]) -> str:
    """Return a name, or where it is taken the first of ``name (2)``, ``name (3)``, ... that is not."""
    return next(free for number in count(1) if (free := name if number == 1 else f"{name} ({number})") not in taken)


def read_predictor(path: Path, *, allow: Collection[str] = (), device: torch.device | str = "cpu") -> Predictor:
    """Read a predictor file.

    Raises:
        UserError: it is damaged, newer than this program, not a predictor, or names code that nobody allowed.
    """
    header = read_header(path)
    try:
        name, settings = str(header["network"]["name"]), dict(header["network"]["settings"])
        spec = FrameSpec.from_dict(header["spec"])
        context, horizon, provenance = int(header["context"]), int(header["horizon"]), dict(header["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no whole predictor file: its header lacks {error}") from None
    for named in names_of_networks({"name": name, **settings}):
        extensions.refuse_unnamed_code("networks", named, NETWORKS, allow, path)
    with safetensors.safe_open(path, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # not a dict
    facts: dict[str, Any] = {"channels": spec.channels, "frame_size": (spec.height, spec.width), "context": context, "spec": spec}
    with torch.device("meta"):  # so that settings which do not fit the weights take no memory
        expected = make_network(name, settings, **facts).state_dict()
    differing = differences(shapes, {key: tuple(weight.shape) for key, weight in expected.items()})
    if differing:
        raise UserError(f"{path} does not hold the weights of its network '{name}': {'; '.join(differing)}")
    network = make_network(name, settings, **facts)
    network.load_state_dict(safetensors.torch.load_file(path))
    return Predictor(
        network.to(device), spec, context, horizon, network_name=name, network_settings=settings, provenance=provenance, name=path.name
    )


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a predictor file as plain data.

    Raises:
        UserError: it is damaged, newer than this program, or not a predictor.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{path} is no whole predictor file: {error}") from None
    if "stpredict" not in metadata:
        raise UserError(f"{path} is a safetensors file, but not a predictor of stpredict: its header has no 'stpredict'")
    try:
        header = dict(json.loads(metadata["stpredict"]))
    except (ValueError, TypeError):
        raise UserError(f"{path} is no whole predictor file: its header is no JSON object") from None
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {header.get('format')} and this stpredict {stpredict.__version__} reads format {FORMAT}: update stpredict"
        )
    return header


def differences(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], most: int = 6) -> list[str]:
    """Say how the named shapes that are given differ from those that are wanted."""
    said = [f"'{key}' is missing" for key in wanted if key not in given]
    said += [f"'{key}' is not one of its weights" for key in given if key not in wanted]
    said += [f"'{key}' is {given[key]} instead of {wanted[key]}" for key in wanted if key in given and given[key] != wanted[key]]
    return said if len(said) <= most else [*said[:most], f"and {len(said) - most} more"]


def _named_by_run(folder: Path) -> list[str]:
    """Return the networks that the config of a run names."""
    from stpredict.configuration import read_config

    config = folder / "config.yaml"
    if not config.is_file():
        return []
    return names_of_networks(read_config(config, []).get("network", {}))
