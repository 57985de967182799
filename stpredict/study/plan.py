"""What a study asks: variants of one recipe, the seeds of each, which are set against which, and how all are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stpredict.configuration import build, dump_config, merge_configs, read_config
from stpredict.errors import UserError, nearest
from stpredict.files import find_yaml
from stpredict.training.overview import NOT_THE_RESULT, dotted
from stpredict.training.settings import Settings, make_settings

PLAN = "study.yaml"
"""The file in a study's folder that holds what it asks."""

_GIVEN = ("seed", "run", "name")
"""Keys of a run's config that the study itself gives."""

_EQUAL = ("trainer.max_steps", "trainer.epochs", "trainer.overfit", "trainer.patience", "trainer.max_hours")
"""Keys, besides all of ``data.*``, in which runs of equal cost do not differ."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Scoring:
    """How the runs of a study are scored, all on the same clips.

    Attributes:
        card: name or path of the card; None: the one that is trained on.
        root: folder of its files; None: that of training, where the card is the same.
        split: of its clips.
        clips: how many, the first ones; None: all.
        protocol: the convention of scoring; None: ``per-pixel``.
        scores: their names; empty: those of the protocol.
        baselines: what is set beside the variants.
    """

    card: str | None = None
    root: str | None = None
    split: str = "test"
    clips: int | None = None
    protocol: str | None = None
    scores: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ("persistence", "extrapolation")

    def __post_init__(self) -> None:
        if self.clips is not None and self.clips < 2:
            raise UserError(f"score.clips is at least 2, since intervals draw clips again, not {self.clips}")


@dataclass(frozen=True)
class Study:
    """A question, and the runs that are to answer it.

    Runs of one seed see the same clips in the same order, whatever their variant, since these are functions of the seed.

    Attributes:
        settings: a run's config, whole or in part; its ``base`` may name configs that are put under it.
        variants: name -> what it sets otherwise.
        question: in words.
        seeds: of which each variant has a run.
        compare: pairs of a variant and the one that it is set against; None: all against the first.
        score: how all are scored.
        always: what is set for all, over the variants.
        name: of the study, for its folder.
    """

    settings: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    question: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    compare: tuple[tuple[str, str], ...] | None = None
    score: Scoring = Scoring()
    always: dict[str, Any] = field(default_factory=dict)
    name: str = "study"

    def __post_init__(self) -> None:
        if not self.variants:
            raise UserError("A study names its variants, each with what it sets otherwise: variants: {wide: {network: {hidden: [64]}}}")
        for name in self.variants:
            if not _NAME.fullmatch(name):
                raise UserError(f"variants.{name}: a variant's name is of letters, digits and . _ + - since it names folders")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are different whole numbers from 0 up, at least one, not {list(self.seeds)}")
        for where, section in {"settings": self.settings, "always": self.always, **self.variants}.items():
            given = [key for key in _GIVEN if key in section]
            if given:
                raise UserError(f"'{where}' may not set '{given[0]}', which the study gives: leave it out")
        for pair in self.compare or ():
            unknown = [name for name in pair if name not in self.variants]
            if unknown:
                raise UserError(f"compare: there is no variant '{unknown[0]}'{nearest(unknown[0], self.variants)}")
            if pair[0] == pair[1]:
                raise UserError(f"compare: '{pair[0]}' is set against itself")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of a variant and the one that it is set against."""
        first, *others = self.variants
        return self.compare if self.compare is not None else tuple((name, first) for name in others)

    @property
    def runs(self) -> dict[str, tuple[str, int]]:
        """Return the runs by name, each with variant and seed, in the order in which they are made: one seed of all first."""
        return {f"{variant}-{seed}": (variant, seed) for seed in self.seeds for variant in self.variants}

    def settings_of(self, variant: str, seed: int, folder: str | None = None) -> Settings:
        """Return the settings of one run.

        Raises:
            UserError: a key or value is wrong; the sentence names the variant.
        """
        mapping = merge_configs(merge_configs(self.settings, self.variants[variant]), self.always)
        try:
            return make_settings({**mapping, "seed": seed, "name": variant, "run": {"folder": folder}})
        except UserError as error:
            raise UserError(f"Variant '{variant}' of the study '{self.name}': {error}") from None

    def differing(self) -> dict[str, dict[str, Any]]:
        """Return the dotted keys in which the variants differ: variant -> key -> value."""
        configs = self._configs()
        keys = dict.fromkeys(key for config in configs.values() for key in config)
        odd = [key for key in keys if key != "name" and len({repr(config.get(key, ...)) for config in configs.values()}) > 1]
        return {name: {key: config[key] for key in odd if key in config} for name, config in configs.items()}

    def unequal(self) -> list[str]:
        """Say in which keys variants differ that should not if their steps and clips are to be the same; nothing where they do not."""
        configs = self._configs()
        keys = dict.fromkeys(key for config in configs.values() for key in config if key in _EQUAL or key.startswith("data."))
        said = []
        for key in keys:
            values = {name: repr(config.get(key)) for name, config in configs.items() if key not in NOT_THE_RESULT}
            if len(set(values.values())) > 1:
                told = ", ".join(f"{name} {value}" for name, value in values.items())
                said.append(f"The variants are not trained by the same steps on the same clips, since they differ in {key}: {told}")
        return said

    def _configs(self) -> dict[str, dict[str, Any]]:
        return {name: dotted(self.settings_of(name, self.seeds[0]).to_dict()) for name in self.variants}

    def check_continues(self, before: Study, made: Sequence[str]) -> None:
        """Refuse to go on with runs that were made by other settings.

        Args:
            before: the study as it was begun.
            made: names of the runs that there are.

        Raises:
            UserError: they were.
        """
        for run, (variant, seed) in self.runs.items():
            if run not in made or variant not in before.variants:
                continue
            old, new = (dotted(study.settings_of(variant, seed).to_dict()) for study in (before, self))
            for key in dict.fromkeys([*old, *new]):
                if key not in NOT_THE_RESULT and repr(old.get(key)) != repr(new.get(key)):
                    raise UserError(
                        f"The run '{run}' was made with {key} {old.get(key)!r}, and is now to have {new.get(key)!r}: go on with the "
                        "study as it was, or name another folder by --out"
                    )

    def to_text(self) -> str:
        """Return the YAML from which :func:`load_study` makes an equal study."""
        plain: dict[str, Any] = asdict(self)
        return dump_config({key: value for key, value in plain.items() if value is not None})


def load_study(name: str | Path, overrides: Sequence[str] = (), *, seeds: Sequence[int] | None = None) -> Study:
    """Read a study: a YAML file, the name of a shipped one, or the folder of one that was begun.

    Args:
        name: which.
        overrides: dotted overrides, ``--score.clips 100`` of the study, any other of all its runs.
        seeds: in place of the study's.

    Raises:
        UserError: there is no such study, or a key or value is wrong.
    """
    path = Path(name)
    if path.is_dir():
        path = path / PLAN
        if not path.is_file():
            raise UserError(f"{name} is no folder of a study: it holds no {PLAN}")
    else:
        path = find_yaml("studies", name)
    mapping = read_config(path, [_of_all(word) for word in overrides])
    mapping.setdefault("name", path.stem)
    if "variants" not in mapping:
        raise UserError(f"{name} is no study: it names no variants; 'stpredict train' takes the config of one run")
    settings = mapping.get("settings")
    if isinstance(settings, Mapping) and "base" in settings:
        mapping["settings"] = _on_bases(settings, path)
    study: Study = build(Study, mapping, where="")
    return study if seeds is None else replace(study, seeds=tuple(seeds))


def _of_all(word: str) -> str:
    """Return an override of every run as one of the section ``always``; one of the section ``score`` stays."""
    named = word.startswith("--") and not word.startswith(("--score.", "--always."))
    return f"--always.{word.removeprefix('--')}" if named else word


def _on_bases(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return settings with the configs that their ``base`` names under them."""
    own = {key: value for key, value in settings.items() if key != "base"}
    bases = settings["base"] if isinstance(settings["base"], list) else [settings["base"]]
    under: dict[str, Any] = {}
    for base in bases:
        beside = path.parent / str(base)
        found = read_config(beside if beside.is_file() else str(base))
        under = merge_configs(under, {key: value for key, value in found.items() if key not in _GIVEN})
    return merge_configs(under, own)
