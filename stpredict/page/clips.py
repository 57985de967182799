"""The films of clips as HTML: each is a player of its own until the script puts them under one control."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stpredict.page.markup import escape, name
from stpredict.page.story import FilmStory


def clip_html(story: FilmStory, index: int, numbers: Mapping[str, int], address: Callable[[str], str | None], sheet: str = "") -> str:
    """Return the article of one clip.

    Args:
        story: what is shown.
        index: its place among the clips.
        numbers: predictor -> number of its series.
        address: name of a film or picture -> the HTML attribute that says where it is; None where it is missing.
        sheet: the heading of the sheet that it was scored in, where there are several.
    """
    films = story.films
    columns: dict[str | None, list[str]] = {}
    for panel in films.films:
        label, alt, note = name(panel.label), escape(story.alt.get(panel.label, panel.label)), story.notes.get(panel.label)
        columns.setdefault(panel.predictor, []).append(
            f'<figure class="panel" data-kind="{escape(panel.kind)}"><figcaption title="{escape(panel.label)}">{label}</figcaption>'
            f"{_screen(story, address(panel.file), alt)}{f'<p class=note>{name(note)}</p>' if note else ''}</figure>"
        )
    legends = "".join(
        f'<img {source} alt="{escape(f"legend: {heading}")}">' for heading, file in films.legends if (source := address(file)) is not None
    )
    if legends:  # below the truth there is room, which has no error
        columns.setdefault(None, []).append(f'<div class="legends">{legends}</div>')
    cells = "".join(
        f'<div class="column" data-series="{"" if predictor is None else numbers[predictor]}">{"".join(figures)}</div>'
        for predictor, figures in columns.items()
    )
    called = " · ".join(map(name, filter(None, [sheet, films.name])))
    return (
        f'<article class="clip" id="clip-{index}" data-clip="{index}" tabindex="-1"><h3>{name(story.heading)}</h3>'
        f'<p class="moment"><span class="phase"></span> <span class="called">{called}</span> <span class="caption"></span></p>'
        f'<div class="columns">{cells}</div></article>'
    )


def _screen(story: FilmStory, source: str | None, alt: str) -> str:
    """Return where the script puts a film while it is near the window; without a script, the film itself."""
    if source is None:
        return '<div class="screen"><p class="lost">This film is missing.</p></div>'
    size = f'width="{story.films.width}" height="{story.films.height}"'
    film = (
        f'<noscript><video {source} {size} controls preload="none" aria-label="{alt}"></video></noscript>'
        if source.startswith("src=")
        else ""
    )
    return f'<div class="screen" data-{source} data-alt="{alt}">{film}</div>'
