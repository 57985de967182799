"""What a page tells, before it is a page: runs, sheets of scores, films, and where everything came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpredict.showing import ClipFilms
    from stpredict.study import Summary


@dataclass(frozen=True)
class Run:
    """A run of training.

    Attributes:
        name: what the page calls it; where a predictor of a sheet has the same name, both have the same colour.
        config: the whole config, as YAML.
        facts: label -> text. What all runs have in common is said once; the rest becomes a table.
        numbers: label of a fact -> by what it is sorted among the runs, where it is a number.
        curves: column of the log -> (step, value) pairs; values that are not finite leave a gap.
        commands: what to type, in order, to have the run again.
        config_file: the name that the commands have for the config.
    """

    name: str
    config: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    config_file: str = ""


@dataclass(frozen=True)
class Sheet:
    """Scores that may be compared with one another: of one protocol, one split and the same clips.

    Attributes:
        heading: stands above.
        scores: what ``Scores.to_dict()`` gives.
    """

    heading: str
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class FilmStory:
    """The films of one clip.

    Attributes:
        heading: why it is shown, such as "worst clip by mse of predrnn-1".
        table: the index of the sheet that the clip was scored in.
        films: what each panel shows, and the names of its files.
        notes: label of a panel -> a line below it, such as its score.
        alt: label of a panel -> what it shows, in words; the label says it where there is none.
    """

    heading: str
    table: int
    films: ClipFilms
    notes: Mapping[str, str] = field(default_factory=dict)
    alt: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """Everything that a page tells.

    Attributes:
        title: of the page.
        lead: what there is to see, and what is the best; a paragraph for each line.
        studies: questions, and what several runs of each variant answered.
        runs: what was trained.
        sheets: scores; sheets are told apart, since their numbers cannot be compared.
        films: of chosen clips.
        provenance: label -> text: versions, machine, hashes, time.
        warnings: what the reader must know before believing a number; a sentence each.
        files: name of a file beside the page -> what it holds.
    """

    title: str
    lead: str = ""
    runs: tuple[Run, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    films: tuple[FilmStory, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    studies: tuple[Summary, ...] = ()
