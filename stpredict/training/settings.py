"""The settings of a run: frozen dataclasses whose fields are the keys of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from stpredict.configuration import build, read_config
from stpredict.devices import Precision
from stpredict.errors import UserError, nearest
from stpredict.kernels import Kernels
from stpredict.sampling import SCHEDULES
from stpredict.training.augmentation import Augmentation


@dataclass(frozen=True)
class DataSettings:
    """Which clips are trained on.

    Attributes:
        card: name or path of a card.
        root: folder of its files.
        context: observed frames of a clip; None: the card's.
        horizon: frames to forecast; None: the card's.
        batch_size: clips of a step, over all processes.
        workers: processes that prepare batches ahead, for each training process; 0: none.
        stride: frames from the start of one clip to the start of the next; None: the card's.
        every: a clip takes every so many-th frame; None: the card's.
        crop: top row, left column, height and width that are kept of a frame; None: the card's.
        resize: height and width of a frame after the crop; None: the card's.
        rain: which clips have rain enough, such as ``{threshold: 0.1, fraction: 0.05}``; None: as the card says.
        settings: of the card's reader or clips; what is left out is the card's.
        random_crop: height and width of a rectangle that each training clip is cut to, at a random place; validation and forecasts see
            whole frames.
        augment: ``flip-x``, ``flip-y``, ``turn`` (by quarters) and ``reverse`` (in time), each at random for each training clip.
        reversed_pass: a step moves the weights a second time, by the same clips running backwards (predrnn-pytorch's reverse_input).
    """

    card: str
    root: str | None = None
    context: int | None = None
    horizon: int | None = None
    batch_size: int = 16
    workers: int = 1
    stride: int | None = None
    every: int | None = None
    crop: tuple[int, int, int, int] | None = None
    resize: tuple[int, int] | None = None
    rain: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    random_crop: tuple[int, int] | None = None
    augment: tuple[Augmentation, ...] = ()
    reversed_pass: bool = False

    def window(self) -> dict[str, Any]:
        """Return what :func:`stpredict.load_data` takes besides card, root, split and seed."""
        return {name: getattr(self, name) for name in ("context", "horizon", "stride", "every", "crop", "resize", "rain", "settings")}

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise UserError(f"data.batch_size must be at least 1 and data.workers at least 0, not {self.batch_size} and {self.workers}")
        if self.random_crop is not None and min(self.random_crop) < 1:
            raise UserError(f"data.random_crop is a height and a width of at least 1 pixel, not {list(self.random_crop)}")


@dataclass(frozen=True)
class OptimizerSettings:
    """How weights move.

    Attributes:
        name: ``adam``, ``adamw`` or ``sgd``.
        learning_rate: the highest one.
        schedule: ``constant``, ``cosine`` (to zero), ``one-cycle`` (Smith and Topin 2018, as torch's OneCycleLR: up over 30 % of
            the steps, down to a 250,000th; Adam's first beta goes the other way, 0.95 to 0.85 and back) or ``plateau`` (reduced
            whenever the validation score has got no better for a while).
        warm_up: steps over which the rate rises from zero, for all but ``one-cycle``.
        plateau_patience: validations without a better score after which ``plateau`` reduces the rate, and counts anew.
        plateau_factor: by which it is multiplied then.
        weight_decay: of AdamW (decoupled), Adam and SGD (L2); norms and biases are left out of it.
        betas: of Adam and AdamW.
        momentum: of SGD.
        clip_norm: largest norm of the whole gradient, or None.
        ema: decay of the moving average of the weights that validation and predictors use, such as 0.999; None: there is none.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "one-cycle", "plateau"] = "constant"
    warm_up: int = 0
    plateau_patience: int = 10
    plateau_factor: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.ema is not None and not 0.0 < self.ema < 1.0:
            raise UserError(f"optimizer.ema is the decay of a moving average, between 0 and 1, not {self.ema}")
        if self.learning_rate <= 0 or self.warm_up < 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise UserError("optimizer.learning_rate and optimizer.clip_norm must be above 0, optimizer.warm_up not negative")
        if self.plateau_patience < 1 or not 0.0 < self.plateau_factor < 1.0:
            raise UserError("optimizer.plateau_patience must be at least 1, and optimizer.plateau_factor between 0 and 1")
        if self.warm_up and self.schedule == "one-cycle":
            raise UserError("optimizer.warm_up has no meaning with the schedule one-cycle, which warms up by itself")


@dataclass(frozen=True)
class TrainerSettings:
    """How long, where, and what is kept.

    Attributes:
        max_steps: training steps.
        epochs: how often each clip of the training split is seen, in place of ``max_steps``; a card whose clips are made as they are
            used says how many make an epoch.
        overfit: train on the first batch alone, to see whether a network can learn it by heart.
        validate_every: steps between validations; 0: never.
        validation_clips: how many clips of the validation split are used; None: all.
        checkpoint_every: steps between checkpoints.
        keep: how many checkpoints stay.
        milestone_every: steps between checkpoints that stay for ever; 0: none do.
        log_every: steps between rows of the log.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32``; ``tf32``; ``bf16`` autocast; or ``fp16`` autocast with a loss scale that adapts.
        kernels: ``auto``: on a CPU convolutions and the like in whatever form is fastest, the same numbers within rounding, and gates kept
            in 16 bits for the gradients; ``reference``: torch's own.
        devices: processes on this machine, on GPUs one for each.
        accumulate: parts that each process's share of a batch is worked through in, one after the other, for less memory.
        max_hours: after so many hours a start of the run saves and stops, to be resumed; None: never.
        patience: validations without a better score after which the run ends; None: it does not end early.
        threads: threads of torch in each process; None: torch's own choice.
        recompute: keep some sqrt(2 T) of the T steps of a clip for the gradients and compute the rest again: less memory, more time.
        compile: let torch compile the cells of the network, which takes minutes at first: for GPUs, where a step then is fewer kernels.
            On a CPU ``kernels: auto`` is faster, and compiled cells have torch's own convolutions.
        truncate: steps of a clip through which the gradient goes back, for clips whose steps no memory holds; None: all of them.
    """

    max_steps: int = 0
    epochs: float | None = None
    overfit: bool = False
    validate_every: int = 500
    validation_clips: int | None = 256
    checkpoint_every: int = 500
    keep: int = 2
    milestone_every: int = 0
    log_every: int = 10
    device: str = "auto"
    precision: Precision = "fp32"
    kernels: Kernels = "auto"
    devices: int = 1
    accumulate: int = 1
    max_hours: float | None = None
    patience: int | None = None
    threads: int | None = None
    recompute: bool = False
    compile: bool = False
    truncate: int | None = None

    def __post_init__(self) -> None:
        if self.max_steps < 0 or (self.epochs is not None and self.epochs <= 0) or (self.max_steps == 0 and self.epochs is None):
            raise UserError(f"trainer.max_steps must be at least 1, not {self.max_steps}, or trainer.epochs above 0 say how long to train")
        for name in ("checkpoint_every", "keep", "log_every", "devices", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("threads", "truncate"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"trainer.{name} must be at least 1, not {getattr(self, name)}")
        if (
            self.milestone_every < 0
            or (self.max_hours is not None and self.max_hours <= 0)
            or (self.patience is not None and self.patience < 1)
        ):
            raise UserError("trainer.milestone_every must not be negative, trainer.max_hours be above 0 and trainer.patience at least 1")
        if self.validate_every < 0 or (self.validation_clips is not None and self.validation_clips < 1):
            raise UserError("trainer.validate_every must not be negative and trainer.validation_clips be at least 1")


@dataclass(frozen=True)
class RunSettings:
    """Where a run writes.

    Attributes:
        folder: the run's folder, which must not exist; None: ``runs/<config name>-<number>``.
        track: where curves go besides the pictures: ``csv`` (always), ``tensorboard``, ``wandb``.
    """

    folder: str | None = None
    track: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ("csv",)


@dataclass(frozen=True)
class Settings:
    """All settings of a run.

    Attributes:
        data: which clips.
        network: ``name``, ``weights`` (a predictor to start from), ``mismatch`` (what to do with weights of another shape:
            ``refuse``, or ``fresh`` to leave these as they were drawn), and what the network's own signature takes.
        loss: ``name``, ``over`` (``all`` T-1 predictions, or the ``future`` only), and what the loss takes.
        sampling: ``name`` of a schedule, and what it takes; ``first_horizon`` and ``grown_at`` of a growing horizon.
        optimizer: how weights move.
        trainer: how long, where, and what is kept.
        run: where it writes.
        seed: of every random draw.
        name: the config's name, for the run's folder.
    """

    data: DataSettings
    network: dict[str, Any]
    trainer: TrainerSettings
    loss: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerSettings = OptimizerSettings()
    run: RunSettings = RunSettings()
    seed: int = 0
    name: str = "run"

    def __post_init__(self) -> None:
        if "name" not in self.network:
            raise UserError("The config does not say which network: set network.name")
        if self.network.get("mismatch", "refuse") not in ("refuse", "fresh"):
            raise UserError(f"network.mismatch is 'refuse' or 'fresh', not '{self.network['mismatch']}'")
        if self.loss.get("over", "all") not in ("all", "future"):
            raise UserError(f"loss.over is 'all' or 'future', not '{self.loss['over']}'")
        if self.optimizer.schedule == "plateau" and not self.trainer.validate_every:
            raise UserError("optimizer.schedule plateau looks at the validation score: set trainer.validate_every above 0")
        schedule = self.sampling.get("name", "none")
        if schedule not in SCHEDULES:
            raise UserError(f"There is no sampling schedule '{schedule}'{nearest(str(schedule), SCHEDULES)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``config.yaml``, from which :func:`make_settings` makes equal settings."""
        plain = asdict(self)
        return {key: _lists(value) for key, value in plain.items()}


def _lists(value: Any) -> Any:
    """Turn tuples into lists, which is what YAML has."""
    if isinstance(value, dict):
        return {key: _lists(part) for key, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, tuple | list) else value


def load_settings(config: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a config by path or shipped name, with dotted overrides such as ``--trainer.max_steps 100``.

    Raises:
        UserError: there is no such config, or a key or value is wrong.
    """
    mapping = read_config(config, overrides)
    mapping.setdefault("name", Path(config).stem)
    return make_settings(mapping)


def make_settings(mapping: Mapping[str, Any]) -> Settings:
    """Make settings from plain data.

    Raises:
        UserError: a key or value is wrong.
    """
    settings: Settings = build(Settings, mapping, where="")
    return settings
