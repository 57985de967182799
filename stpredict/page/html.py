"""The page: one HTML file, with its script and style inside, that opens from disk and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stpredict.files import whole_file, write_text
from stpredict.page.clips import clip_html
from stpredict.page.markup import details, escape, facts, is_number, name, table
from stpredict.page.series import script_data, series_of
from stpredict.page.sheets import sheet_html
from stpredict.page.story import Run, Story
from stpredict.page.studies import study_html

FILMS = "films"
"""The folder beside the page that holds its films."""

_SCRIPTS = ("page.js", "plots.js", "tables.js", "films.js")

_KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".png": "image/png"}


def write_page(story: Story, folder: Path, films: Path, single: bool) -> Path:
    """Write the page of a story.

    Args:
        story: what is told.
        folder: where ``index.html`` and the folder ``films`` are written; with ``single``, the ``.html`` file itself.
        films: where the films and legends lie that the story names. Those that are missing are said to be missing.
        single: write one file that holds the films too.

    Returns:
        The HTML file.

    Raises:
        OSError: a file could not be written whole.
    """
    named = dict.fromkeys(file for film in story.films for file in _files(film.films))
    for file in named:
        assert file not in ("", "..") and Path(file).name == file, f"{file!r} is no name of a file"
    there = [file for file in named if (films / file).is_file()]
    if single:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(folder) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as page:
            page.write(page_html(story, lambda file: _inside(films / file) if file in there else None, embedded=True))
            for file in there:
                if Path(file).suffix != ".png":
                    page.write(f'\n<script type="application/octet-stream" id="{_film_id(file)}">{_base64(films / file)}</script>')
            page.write("\n</body></html>\n")
        return folder
    (folder / FILMS).mkdir(parents=True, exist_ok=True)
    if (folder / FILMS).resolve() != films.resolve():
        for file in there:
            with whole_file(folder / FILMS / file) as temporary:
                shutil.copyfile(films / file, temporary)
    page_file = folder / "index.html"
    write_text(page_file, page_html(story, lambda file: f'src="{FILMS}/{quote(file)}"' if file in there else None) + "\n</body></html>\n")
    return page_file


def page_html(story: Story, address: Callable[[str], str | None], embedded: bool = False) -> str:
    """Return the page up to the end of its body.

    Args:
        story: what is told.
        address: name of a film or picture -> the HTML attribute that says where it is; None where it is missing.
        embedded: the films are inside the page.
    """
    own = Path(__file__).parent
    style = (own / "page.css").read_text(encoding="utf-8")
    script = '(() => {\n"use strict";\n' + "\n".join((own / part).read_text(encoding="utf-8") for part in _SCRIPTS) + "\nstart();\n})();\n"
    # Only what is written here runs, whatever the data holds. 'self' does not mean a file beside the page in every browser; `file:` does.
    # The script fetches films, of the page's own server, where that server gives no parts of them.
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src 'self' file: data:; "
        "media-src 'self' file: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "studies": ("What was asked", "\n".join(map(study_html, story.studies))),
        "runs": ("What was trained", _runs(story)),
        "scores": ("Scores", _sheets(story)),
        "films": ("Films", _films(story, address, embedded)),
        "reproduce": ("How to reproduce", _reproduce(story)),
        "provenance": ("Provenance", facts(story.provenance) + _beside(story)),
    }
    told = {part: (heading, body) for part, (heading, body) in parts.items() if body}
    links = "".join(f'<li><a href="#{part}">{heading}</a></li>' for part, (heading, _) in told.items())
    sections = "\n".join(f'<section id="{part}"><h2>{heading}</h2>\n{body}\n</section>' for part, (heading, body) in told.items())
    lead = "".join(f'<p class="lead">{name(line)}</p>' for line in story.lead.splitlines())
    warnings = "".join(f"<li>{name(warning)}</li>" for warning in story.warnings)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<meta name="referrer" content="no-referrer"><title>{escape(story.title)}</title><link rel="icon" href="data:,">'
        f'<style>{style}</style></head>\n<body><a class="skip" href="#main">Skip to the content</a>\n'
        f'<header><div class="top"><h1>{name(story.title)}</h1><button type="button" id="theme" hidden></button></div>'
        f'{lead}<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n'
        f'<main id="main" tabindex="-1">\n{f"<ul class=warnings>{warnings}</ul>" if warnings else ""}\n{sections}\n</main>\n'
        f'<script type="application/json" id="data">{script_data(story)}</script>\n<script>{script}</script>'
    )


def _runs(story: Story) -> str:
    runs = story.runs
    labels = list(dict.fromkeys(label for run in runs for label in run.facts))
    common = {label: runs[0].facts[label] for label in labels if len({run.facts.get(label) for run in runs}) == 1}
    rest = [label for label in labels if label not in common]
    pieces = []
    if len(runs) == 1:
        pieces.append(f"<p>Run {name(runs[0].name)}</p>{facts(runs[0].facts)}")
    elif runs:
        rows = [(name(run.name), [_fact(run, label) for label in rest]) for run in runs]
        same = f"<p>Common to all runs:</p>{facts(common)}" if common else ""
        pieces.append(f"{same}{table('Runs', ['run', *map(name, rest)], [rows], 'sortable texts')}")
    if any(run.curves for run in runs):
        pieces.append('<figure class="plot curves"></figure>')
    return "".join(pieces)


def _fact(run: Run, label: str) -> str:
    value = f' data-value="{run.numbers[label]!r}"' if is_number(run.numbers.get(label)) else ""
    return f"<td{value}>{name(run.facts.get(label, ''))}</td>"


def _sheets(story: Story) -> str:
    apart = (
        '<p class="warnings">Each part below has its own protocol, split or clips: numbers of different parts cannot be compared.</p>'
        if len(story.sheets) > 1
        else ""
    )
    sheets = []
    for index, sheet in enumerate(story.sheets):
        shown = {film.films.clip: f"clip-{place}" for place, film in reversed(list(enumerate(story.films))) if film.table == index}
        sheets.append(sheet_html(sheet, index, shown))
    return apart + "\n".join(sheets) if sheets else ""


def _films(story: Story, address: Callable[[str], str | None], embedded: bool) -> str:
    if not story.films:
        return ""
    numbers = {called: about["number"] for called, about in series_of(story).items()}
    silent = "<noscript><p>The films of this page are inside it, and play with JavaScript only.</p></noscript>" if embedded else ""
    headings = [sheet.heading for sheet in story.sheets] if len(story.sheets) > 1 else []
    clips = "\n".join(
        clip_html(film, index, numbers, address, headings[film.table] if film.table < len(headings) else "")
        for index, film in enumerate(story.films)
    )
    return f'{silent}<div class="options"></div><div class="player"></div>\n{clips}'


def _reproduce(story: Story) -> str:
    pieces = []
    for run in story.runs:
        commands = f'<div class="code"><pre class="commands">{escape(chr(10).join(run.commands))}</pre></div>' if run.commands else ""
        config = (
            details(
                f"Config ({run.config_file})" if run.config_file else "Config", f'<div class="code"><pre>{escape(run.config)}</pre></div>'
            )
            if run.config
            else ""
        )
        if commands or config:
            pieces.append(f"<h3>{name(run.name)}</h3>{commands}{config}")
    return "".join(pieces)


def _beside(story: Story) -> str:
    files = "".join(f'<li><a href="{quote(file)}">{name(file)}</a>: {escape(what)}</li>' for file, what in story.files.items())
    return f'<p>Files beside this page:</p><ul class="files">{files}</ul>' if files else ""


def _files(films: Any) -> list[str]:
    return [*(panel.file for panel in films.films), *(file for _, file in films.legends)]


def _inside(path: Path) -> str:
    """Return where a film or picture is that the page holds: pictures where they are seen, films behind all that is read first."""
    kind = _KINDS[path.suffix]
    return f'src="data:{kind};base64,{_base64(path)}"' if path.suffix == ".png" else f'inside="{_film_id(path.name)}" data-type="{kind}"'


def _film_id(file: str) -> str:
    return "film-" + hashlib.sha256(file.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
