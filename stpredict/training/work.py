"""What a run works with: data, network, loss, schedule and optimiser, made from its settings before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from stpredict import extensions, kernels
from stpredict.configuration import build, settings_of
from stpredict.data import load_data
from stpredict.data.clips import ClipSet
from stpredict.devices import choose_device, put_channels_last, tune
from stpredict.errors import UserError
from stpredict.losses import Loss, make_loss, members_of
from stpredict.networks import NETWORKS, DirectNetwork, Network, RecurrentNetwork, make_network, names_of_networks
from stpredict.predictor import Predictor, differences, load_predictor
from stpredict.processes import Processes
from stpredict.sampling import SCHEDULES, GrowingHorizon, Schedule
from stpredict.training.compiling import compile_cells
from stpredict.training.settings import OptimizerSettings, Settings
from stpredict.unroll import Unroll

_RESERVED = ("name", "weights", "mismatch")
"""Keys of the network section that are not the network's own."""

_GROWING = tuple(field.name for field in fields(GrowingHorizon))
"""Keys of the sampling section that are not the schedule's own."""

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Work:
    """What a run works with.

    Attributes:
        settings: of the run.
        processes: who works on it.
        device: where.
        clips: the training split.
        validation: the validation split, or None without validation.
        along: the network along clips.
        loss: the loss.
        schedule: which frames fed are true.
        growing: how many future frames a step trains on.
        optimizer: moves the weights.
        said: what its making has to say.
    """

    settings: Settings
    processes: Processes
    device: torch.device
    clips: ClipSet
    validation: ClipSet | None
    along: Unroll
    loss: Loss
    schedule: Schedule
    growing: GrowingHorizon
    optimizer: torch.optim.Optimizer
    said: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        """Return the network."""
        return self.along.network

    @property
    def members(self) -> int:
        """Return how many members of each clip the loss is given; 1 if it takes single predictions."""
        return members_of(self.loss)

    @property
    def chosen_by(self) -> str:
        """Return which validation score chooses the best predictor: the squared error, or the loss where it is one of an ensemble."""
        return "validation_mse" if self.members == 1 else "validation_loss"

    def predictor(self, provenance: dict[str, Any]) -> Predictor:
        """Return the network as it is now with its frame spec."""
        settings = {key: value for key, value in self.settings.network.items() if key not in _RESERVED}
        was_training = self.network.training
        predictor = Predictor(
            self.network,
            self.clips.spec,
            self.clips.context,
            self.clips.horizon,
            network_name=self.settings.network["name"],
            network_settings=settings,
            provenance=provenance,
        )
        self.network.train(was_training)
        return predictor


def make_work(settings: Settings, processes: Processes) -> Work:
    """Make all that a run works with; what is wrong in its settings shows here.

    Raises:
        UserError: a setting is wrong, or data and network do not fit.
    """
    if processes.count > settings.data.batch_size:
        raise UserError(f"{processes.count} processes share data.batch_size {settings.data.batch_size}, which leaves some of them no clip")
    device = choose_device(settings.trainer.device)
    if device.type == "cuda" and processes.count > 1:
        device = torch.device("cuda", processes.local_rank % torch.cuda.device_count())
    if settings.trainer.threads is not None:
        torch.set_num_threads(settings.trainer.threads)
    tune(device, settings.trainer.precision)
    said = _choose_kernels(settings.trainer.kernels, device, processes)
    clips = _load(settings, "train")
    if settings.trainer.epochs is not None:
        steps = math.ceil(settings.trainer.epochs * len(clips) / settings.data.batch_size)
        settings = replace(settings, trainer=replace(settings.trainer, max_steps=max(1, steps)))
    validation = _load(settings, "validation") if settings.trainer.validate_every else None
    growing = {key: settings.sampling[key] for key in _GROWING if key in settings.sampling}
    schedule_settings = {key: value for key, value in settings.sampling.items() if key not in ("name", *_GROWING)}
    loss_settings = {key: value for key, value in settings.loss.items() if key != "over"}
    settings = _tell_known(settings, clips)
    network = _make_network(settings, clips).to(device)
    if device.type == "cuda" and settings.trainer.precision != "fp32":
        put_channels_last(network)
    loss = make_loss(loss_settings, clips.spec)
    if members_of(loss) > 1 and not network.stochastic:
        told = (
            f"The loss '{loss_settings.get('name')}' is of an ensemble, and this network draws nothing at random, so that members are equal"
        )
        raise UserError(f"{told}: set network.noise_channels, such as 2")
    if isinstance(network, DirectNetwork):
        for name in ("truncate", "recompute"):
            if getattr(settings.trainer, name):
                told = f"trainer.{name} is for networks that take steps"
                raise UserError(f"{told}, and {settings.network['name']} forecasts at once: leave it out")
    if settings.data.random_crop is not None and isinstance(network, RecurrentNetwork):
        network.initial_state(1, *(-(-side // network.patch_size) * network.patch_size for side in settings.data.random_crop))  # or refuse
    if settings.trainer.compile:
        compile_cells(network, settings.network["name"], device)
    return Work(
        settings,
        processes,
        device,
        clips,
        validation,
        Unroll(network, clips.spec.scaled_fill, settings.trainer.recompute),
        loss,
        build(SCHEDULES[settings.sampling.get("name", "none")], schedule_settings, where="sampling", read_elsewhere=_GROWING),
        build(GrowingHorizon, growing, where="sampling"),
        _make_optimizer(settings.optimizer, network, fused=device.type == "cuda"),
        said,
    )


def _choose_kernels(wanted: kernels.Kernels, device: torch.device, processes: Processes) -> tuple[str, ...]:
    """Let all processes compute with the same kernels; return what is to be said of it."""
    kernels.choose(wanted)
    if device.type != "cpu" or processes.alike(kernels.in_use):
        return ()
    kernels.choose("reference")
    return ("The processes have different kernels, so that all compute with torch's own: trainer.kernels reference",)


def _load(settings: Settings, split: str) -> ClipSet:
    data = settings.data
    clips = load_data(data.card, root=data.root, split=split, seed=settings.seed, **data.window())
    if split == "train" and data.batch_size > len(clips) and not clips.endless:
        raise UserError(f"The training split of '{data.card}' has {len(clips)} clips, fewer than data.batch_size {data.batch_size}")
    return clips


def _tell_known(settings: Settings, clips: ClipSet) -> Settings:
    """Return the settings with ``network.known_channels`` as the clips have them; what a network is told may not contradict.

    Raises:
        UserError: the clips have known inputs, and the network takes none or another number.
    """
    if not clips.known_channels:
        return settings
    told = settings.network.get("known_channels", clips.known_channels)
    if told != clips.known_channels:
        raise UserError(f"network.known_channels is {told}, and the clips of '{clips.card}' have {clips.known_channels}: leave it out")
    takes, open_ended = settings_of(extensions.find("networks", settings.network["name"], NETWORKS))
    if "known_channels" not in takes and not open_ended:
        raise UserError(f"The network '{settings.network['name']}' takes no known inputs, and '{clips.card}' has {clips.known_channels}")
    return replace(settings, network={**settings.network, "known_channels": clips.known_channels})


def _make_network(settings: Settings, clips: ClipSet) -> Network:
    own = {key: value for key, value in settings.network.items() if key not in _RESERVED}
    spec = clips.spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = make_network(
            settings.network["name"], own, channels=spec.channels, frame_size=(spec.height, spec.width), context=clips.context, spec=spec
        )
    if network.patch_size > min(spec.height, spec.width):
        raise UserError(f"network.patch_size {network.patch_size} is larger than the frame of {spec.height} x {spec.width} pixels")
    if settings.network.get("weights"):
        _start_from(network, str(settings.network["weights"]), settings)
    return network


def _start_from(network: Network, path: str, settings: Settings) -> None:
    """Put the weights of a predictor into a fresh network."""
    source = load_predictor(path, allow=names_of_networks(settings.network))
    if not isinstance(source, Predictor):
        raise UserError(f"network.weights: {path} is no predictor file or run folder, so it has no weights to start from")
    given, fresh = source.network.state_dict(), network.state_dict()
    if settings.network.get("mismatch") == "fresh":
        given = {key: value for key, value in given.items() if key in fresh and value.shape == fresh[key].shape}
    else:
        differing = differences({k: tuple(v.shape) for k, v in given.items()}, {k: tuple(v.shape) for k, v in fresh.items()})
        if differing:
            raise UserError(
                f"network.weights: {path} does not fit this network: {'; '.join(differing)} (network.mismatch: fresh leaves these as drawn)"
            )
        other = _other_maths(source, network, settings)
        if other:
            raise UserError(f"network.weights: {path} is of a network that computes something else with weights of this shape: {other}")
    network.load_state_dict({**fresh, **given})


def _other_maths(source: Predictor, network: Network, settings: Settings) -> str:
    """Return in words the settings that change what the same weights compute."""
    name = settings.network["name"]
    if source.network_name != name:
        return ""
    known = {**settings_of(extensions.find("networks", name, NETWORKS))[0], "noise_channels": 0}
    theirs, ours = ({**known, **given} for given in (source.network_settings, settings.network))
    differing = [key for key in known if key not in network.training_settings and _plain(theirs[key]) != _plain(ours[key])]
    return "; ".join(f"set network.{key} to {theirs[key]}, not {ours[key]}" for key in differing)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _make_optimizer(settings: OptimizerSettings, network: Network, fused: bool) -> torch.optim.Optimizer:
    """Make the optimiser; a ``fused`` Adam can leave out a step whose gradient is not finite, and no program has to wait to learn it."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError("The network has no weights to train")
    rate, decay = settings.learning_rate, settings.weight_decay
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if decay:
        spared = {id(weight) for part in network.modules() if isinstance(part, _NORMS) for weight in part.parameters(recurse=False)}
        spared |= {id(weight) for weight in parameters if weight.ndim <= 1}
        groups = [
            {"params": [weight for weight in parameters if id(weight) not in spared], "weight_decay": decay},
            {"params": [weight for weight in parameters if id(weight) in spared], "weight_decay": 0.0},
        ]
    if settings.name == "sgd":  # torch's fused one has undefined momenta after a first step that was left out
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=settings.betas, weight_decay=0.0, fused=fused or None)
