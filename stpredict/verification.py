"""Published figures beside those that an imported predictor gets here, on the clips that they were published for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from stpredict.data import load_data
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.metrics import create_scores
from stpredict.predictor import Predictor, load_predictor
from stpredict.weights.catalogue import Published, find_published


@dataclass(frozen=True)
class Figure:
    """One published score.

    Attributes:
        score: what the page calls it.
        published: its value there.
        ours: the score here that is defined alike, or None.
        measured: its value here, mean over clips and leads, or None.
        reason: why it was not measured, where it was not.
    """

    score: str
    published: float
    ours: str | None = None
    measured: float | None = None
    reason: str = ""

    @property
    def difference(self) -> float | None:
        """Return measured minus published, or None."""
        return None if self.measured is None else self.measured - self.published


@dataclass(frozen=True)
class Verification:
    """Published figures beside measured ones.

    Attributes:
        entry: of the catalogue.
        clips: how many were scored.
        of: how many clips the published figures are for.
        figures: one for each published score.
    """

    entry: Published
    clips: int
    of: int
    figures: tuple[Figure, ...]

    def table(self) -> Table:
        """Return the figures as a table for a terminal."""
        about = self.entry.benchmark
        clips = f"{self.clips} clips" if self.clips == self.of else f"the first {self.clips} of {self.of} clips, so not what was published"
        data = f"{about.card} {about.split}: {clips}, {about.context} + {about.horizon} frames"
        table = Table(
            title=Text(
                f"{self.entry.name} ({self.entry.network}) on {data}, {about.convention.name}, protocol {about.convention.protocol}"
            ),
            caption=Text(f"published at {about.page}"),
        )
        for heading in ("score", "here", "published", "measured", "difference"):
            table.add_column(heading, justify="left" if heading in ("score", "here") else "right")
        for figure in self.figures:
            measured = "not measured" if figure.measured is None else f"{figure.measured:.6g}"
            difference = "" if figure.difference is None else f"{figure.difference:+.3g}"
            table.add_row(
                *(Text(cell) for cell in (figure.score, figure.ours or figure.reason, f"{figure.published:g}", measured, difference))
            )
        return table


def verify(
    predictor: Predictor | str | Path,
    root: str | Path | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
    progress: bool = False,
) -> Verification:
    """Score a predictor that was imported from published weights on the clips that its figures were published for.

    Args:
        predictor: a predictor, or its file, whose provenance names an entry of the catalogue.
        root: the folder of the data.
        limit: score the first ``limit`` clips only.
        batch_size: clips at a time.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: whether to show a progress bar where stderr is a terminal.

    Raises:
        UserError: the predictor is not from the catalogue, there is no card for its data, or the files are not there.
    """
    if not isinstance(predictor, Predictor):
        loaded = load_predictor(predictor)
        if not isinstance(loaded, Predictor):
            raise UserError(f"'{predictor}' is no trained predictor, so nothing has been published about its weights")
        predictor = loaded
    entry = _entry(predictor)
    clips = _clips(entry, root)
    convention = entry.benchmark.convention
    missing = {}
    wanted = {score: convention.same[score] for score in entry.scores}
    for score, ours in list(wanted.items()):
        try:
            create_scores([ours])
        except UserError as error:  # its files are not here
            del wanted[score]
            missing[score] = str(error)
    scores = evaluate(
        predictor,
        clips,
        convention.protocol,
        scores=list(wanted.values()),
        baselines=False,
        batch_size=batch_size,
        limit=limit,
        device=device,
        progress=progress,
    )
    (measured,) = scores.scores.values()
    figures = []
    for score, value in entry.scores.items():
        if score in wanted:
            figures.append(Figure(score, value, wanted[score], float(measured[wanted[score]]["mean"])))
        else:
            figures.append(Figure(score, value, reason=missing[score]))
    return Verification(entry, scores.clips, len(clips), tuple(figures))


def _entry(predictor: Predictor) -> Published:
    name = predictor.provenance.get("catalogue")
    if not isinstance(name, str):
        raise UserError(
            f"The predictor '{predictor.name}' does not say which published weights it is; import these by the name that "
            "'stpredict import --list' shows, or score it by 'stpredict evaluate'"
        )
    return find_published(name)


def _clips(entry: Published, root: str | Path | None) -> ClipSet:
    about = entry.benchmark
    if about.card is None or about.split is None:
        raise UserError(f"The figures of {entry.name} are for {about.title}, for which there is no card here")
    wanted = f"The figures of {entry.name} are for the split '{about.split}' of '{about.card}'"
    if root is None:
        raise UserError(f"{wanted}: give its folder by --root FOLDER, with {about.files}; 'stpredict data show {about.card}' says more")
    try:
        return load_data(about.card, root, about.split, context=about.context, horizon=about.horizon)
    except UserError as error:
        raise UserError(f"{wanted}, whose folder must hold {about.files}: {error}") from None
