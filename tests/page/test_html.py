"""The page as text: what it says without a script, what may run in it, and the files beside it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stpredict.page
from stpredict.page.html import page_html, write_page
from stpredict.page.markup import decimals, escape, interval, number
from stpredict.page.series import script_data, series_of, spectra_of, thinned
from stpredict.page.sheets import sheet_html
from stpredict.page.story import Run, Sheet, Story

ASSETS = Path(stpredict.page.__file__).parent


class Elements(html.parser.HTMLParser):
    """Collects elements, and the text of each kind of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data


def cells(text: str) -> list[list[str]]:
    """Return the texts of the first table, row by row."""
    table = re.search(r"<table.*?</table>", text, re.DOTALL)
    assert table
    rows = re.findall(r"<tr>(.*?)</tr>", table[0])
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def one_sheet(scores: dict[str, dict[str, Any]], **further: Any) -> Sheet:
    better = {"mse": "lower", "ssim": "higher"}
    return Sheet("sheet", {"protocol": "p", "data": {}, "predictors": {}, "scores": scores, "better": better, **further})


def test_only_the_page_s_own_script_and_style_may_run(make_story: Callable[..., Story], tmp_path: Path) -> None:
    page = write_page(make_story(tmp_path / "made"), tmp_path / "out", tmp_path / "made", single=False).read_text(encoding="utf-8")
    elements = Elements(page)
    assert elements.open == []
    (policy,) = [
        attributes["content"] or "" for tag, attributes in elements.found if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    for tag, key in (("script", "script-src"), ("style", "style-src")):
        text = elements.texts[tag][-1]
        assert allowed[key] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert [
        attributes for _, attributes in elements.found if "style" in attributes or any(name.startswith("on") for name in attributes)
    ] == []
    outside = [
        attributes for _, attributes in elements.found if re.match(r"https?:|//", attributes.get("src") or attributes.get("data-src") or "")
    ]
    assert outside == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", "".join(path.read_text() for path in ASSETS.glob("*.[cj]s*")))
    assert not re.search(
        r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", "".join(path.read_text() for path in ASSETS.glob("*.js"))
    )


def test_hostile_text_stays_text(make_story: Callable[..., Story], tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!--\u2028\u2029&amp;'\"\0\ud800"
    story = replace(
        make_story(tmp_path / "made", [hostile]), title=hostile, lead=hostile, warnings=(hostile,), provenance={hostile: hostile}
    )
    plain = Elements(page_html(story, lambda file: 'src="x"') + "</body></html>")
    assert [tag for tag, _ in plain.found].count("script") == 2
    data = plain.texts["script"][0]
    assert not set(data) & set("<>&\u2028\u2029") and data.isascii()
    assert json.loads(data)["series"][0]["name"] == hostile
    assert write_page(story, tmp_path / "out", tmp_path / "made", single=False).read_bytes().decode("utf-8").count("alert(1)") > 5
    assert escape("\0<\ud800") == "\N{REPLACEMENT CHARACTER}&lt;?"


def test_names_of_files_stay_in_their_folder(make_story: Callable[..., Story], tmp_path: Path) -> None:
    story = make_story(tmp_path / "made", clips=1)
    film = story.films[0]
    for file in ("../one.mp4", "/etc/passwd", "..", "", "a/b.mp4"):
        panels = (replace(film.films.films[0], file=file),)
        bad = replace(story, films=(replace(film, films=replace(film.films, films=panels)),))
        with pytest.raises(AssertionError, match="no name of a file"):
            write_page(bad, tmp_path / "out", tmp_path / "made", single=False)


def test_films_lie_beside_the_page_or_in_it(make_story: Callable[..., Story], tmp_path: Path) -> None:
    made = tmp_path / "made"
    story = make_story(made)
    (made / "clip0-1.mp4").unlink()
    page = write_page(story, tmp_path / "out", made, single=False)
    assert page == tmp_path / "out" / "index.html"
    assert {path.name for path in (tmp_path / "out" / "films").iterdir()} == {path.name for path in made.iterdir()}
    assert (tmp_path / "out" / "films" / "clip1-3.mp4").read_bytes() == (made / "clip1-3.mp4").read_bytes()
    assert page.read_text(encoding="utf-8").count("This film is missing.") == 1

    alone = write_page(story, tmp_path / "alone" / "one.html", made, single=True)
    assert alone == tmp_path / "alone" / "one.html" and list(alone.parent.iterdir()) == [alone]
    elements = Elements(alone.read_text(encoding="utf-8"))
    wanted = {attributes["data-inside"] for _, attributes in elements.found if "data-inside" in attributes}
    held = {
        attributes["id"]: text
        for (_, attributes), text in zip([item for item in elements.found if item[0] == "script"], elements.texts["script"], strict=True)
        if attributes.get("type") == "application/octet-stream"
    }
    assert len(wanted) == 9 and held.keys() == wanted
    assert {base64.b64decode(text) for text in held.values()} == {(made / "clip0-0.mp4").read_bytes()}

    there = write_page(story, made.parent, made.rename(tmp_path / "films"), single=False)
    assert there == tmp_path / "index.html" and (tmp_path / "films" / "clip0-0.mp4").stat().st_size > 0


@pytest.mark.parametrize(
    ("values", "intervals", "places"),
    [
        ([0.01234], [(0.0120, 0.0126)], 5),
        ([123.4], [(120.0, 126.0)], 1),
        ([0.5, 50.0], [], 2),
        ([1e6], [], 0),
        ([0.0, None], [None], 0),
        ([math.nan], [], 0),
    ],
)
def test_numbers_have_as_many_digits_as_they_are_worth(values: list[Any], intervals: list[Any], places: int) -> None:
    assert decimals(values, intervals) == places


def test_numbers_as_text() -> None:
    assert number(1234567.8, 0) == "1,234,568"
    assert number(-0.01234, 3) == "\N{MINUS SIGN}0.012"
    assert number(None, 3) == number(math.inf, 3) == "\N{EN DASH}"
    assert number(1.5e-12, 13) == "1.500e\N{MINUS SIGN}12"
    assert interval((0.1, 0.25), 2) == ' <span class="interval">[0.10, 0.25]</span>'
    assert interval((None, 0.25), 2) == interval(None, 2) == ""


def test_the_table_marks_the_best_and_puts_baselines_below() -> None:
    scores = {
        "persistence": {"mse": {"mean": 0.5, "interval": [0.4, 0.6]}, "ssim": {"mean": None}},
        "a": {"mse": {"mean": 0.25, "interval": [0.2, 0.3]}, "ssim": {"mean": 0.5}},
        "b": {"mse": {"mean": None, "interval": [None, None]}, "ssim": {"mean": 0.75}},
    }
    sheet = one_sheet(
        scores,
        predictors={"persistence": {"kind": "baseline"}},
        published={"paper": {"page": "javascript:alert(1)", "scores": {"mse": 0.2}}},
    )
    text = sheet_html(sheet, 0, {})
    rows = cells(text)
    assert [row[0] for row in rows] == ["predictor", "a", "b", "persistence", "paper (published)"]
    assert [row[1] for row in rows[1:]] == ["0.250 (best) [0.200, 0.300]", "\N{EN DASH}", "0.500 [0.400, 0.600]", "0.2"]
    assert [row[2] for row in rows[1:]] == ["0.5000", "0.7500 (best)", "\N{EN DASH}", ""]
    assert "javascript:" not in text


def test_differences_say_whether_they_are_better() -> None:
    cell = {
        "lower": {"value": -2, "low": -3, "high": -1},
        "higher": {"value": 2, "low": 1, "high": 3},
        "both": {"value": 0, "low": -1, "high": 1},
    }
    differences = {name: {"mse": numbers, "ssim": numbers} for name, numbers in cell.items()}
    text = sheet_html(one_sheet({}, over={"name": "x", "differences": differences}), 0, {})
    said = re.findall(r'<th scope="row">.*?</th>|class="verdict (\w+)"', text)
    assert [word for word in said if word] == ["better", "worse", "worse", "better", "unclear", "unclear"]
    many = {"mse": cell["lower"], "power_ratio": cell["lower"]}
    over = {"name": "x", "differences": {"still": many, "one": many}, "skill": {"still": many, "one": many}}
    text = sheet_html(one_sheet({"one": {}, "still": {}}, predictors={"still": {"kind": "baseline"}}, over=over), 0, {})
    assert "power_ratio" not in text, "spectra have no direction"
    for table in re.findall(r"<table class=\"scores\">.*?</table>", text, re.DOTALL):
        assert [row[0] for row in cells(table)] == ["predictor", "one", "still"] and table.count("<tbody>") == 2, "baselines stand below"
    assert text.count('<table class="scores">') == 2


def test_chosen_clips_lead_to_their_films(make_story: Callable[..., Story], tmp_path: Path) -> None:
    page = page_html(make_story(tmp_path), lambda file: 'src="x"')
    assert set(re.findall(r'<a href="#(clip-\d)">(\d)</a>', page)) == {("clip-0", "0"), ("clip-1", "1")}
    assert "<td>7</td>" in page, "a clip without films is told without a link"
    assert {'id="clip-0"', 'id="clip-1"'} <= set(re.findall(r'id="clip-\d"', page))


def test_sheets_that_cannot_be_compared_stand_apart(make_story: Callable[..., Story], tmp_path: Path) -> None:
    story = make_story(tmp_path)
    sentence = "cannot be compared"
    assert sentence not in page_html(story, lambda file: None)
    two = page_html(replace(story, sheets=story.sheets * 2), lambda file: None)
    assert two.count(sentence) == 1 and two.count('class="sheet"') == 2


def test_facts_of_all_runs_are_said_once() -> None:
    runs = (Run("a", facts={"data": "x", "size": "1"}), Run("b", facts={"data": "x", "size": "2"}))
    page = page_html(Story("t", runs=runs), lambda file: None)
    assert re.findall(r"<dt>(.*?)</dt>", page) == ["data"]
    assert cells(page) == [["run", "size"], ["a", "1"], ["b", "2"]]


def test_an_empty_story_is_a_page() -> None:
    elements = Elements(page_html(Story("nothing"), lambda file: None) + "</body></html>")
    assert elements.open == [] and "section" not in elements.texts and elements.texts["h1"] == ["nothing"]


def test_the_script_gets_what_it_draws(make_story: Callable[..., Story], tmp_path: Path) -> None:
    story = make_story(tmp_path, ["a", "b"], 1)
    data = json.loads(script_data(story))
    assert [(one["name"], one["kind"], one["place"]) for one in data["series"]] == [
        ("a", "predictor", 0), ("b", "predictor", 1), ("persistence", "baseline", 0), ("extrapolation", "baseline", 1)
    ]  # fmt: skip
    (sheet,) = data["sheets"]
    assert [score["name"] for score in sheet["scores"]] == ["mse", "ssim", "csi"], "spectra have a plot of their own"
    line = sheet["scores"][0]["lines"][1]
    assert line["leads"] == pytest.approx(story.sheets[0].scores["scores"]["b"]["mse"]["per_lead"], rel=1e-5)
    assert [part["name"] for part in sheet["scores"][2]["lines"][0]["parts"]] == ["0.5", "2"]
    wavelengths = [point[0] for point in sheet["spectra"][1]["points"]]
    assert wavelengths == sorted(wavelengths, reverse=True) and len(wavelengths) == 16 and max(wavelengths) == 64
    assert data["curves"][1]["lines"][0]["points"] == [[10, 0.5], [20, None], [30, 0.25]], "what is not finite is a gap"
    assert spectra_of(one_sheet({"a": {"mse": {"mean": 1}, "power_ratio": {"mean": 1}}})) == {}


def test_a_legend_stands_where_the_truth_has_no_error(make_story: Callable[..., Story], tmp_path: Path) -> None:
    story = make_story(tmp_path, ["a"], 1)
    film = replace(story.films[0], films=replace(story.films[0].films, legends=(("mm/h", "l.png"),)))
    page = page_html(replace(story, films=(film,)), lambda file: f'src="films/{file}"')
    truth = page.split('<div class="column" data-series="">')[1].split('<div class="column"')[0]
    assert truth.count("<figure") == 1 and '<div class="legends"><img src="films/l.png" alt="legend: mm/h"></div>' in truth


def test_each_paragraph_of_the_lead_and_the_name_of_a_config_are_told() -> None:
    page = page_html(Story("t", lead="One.\nTwo.", runs=(Run("a", config="x: 1", config_file="config-1.yaml"),)), lambda file: None)
    assert re.findall(r'<p class="lead"><bdi class="name">(.*?)</bdi></p>', page) == ["One.", "Two."]
    assert "<summary>Config (config-1.yaml)</summary>" in page


def test_a_run_and_its_predictor_have_one_colour() -> None:
    story = Story("t", runs=(Run("b"), Run("new")), sheets=(one_sheet({"a": {}, "b": {}}),))
    assert {name: about["place"] for name, about in series_of(story).items()} == {"a": 0, "b": 1, "new": 2}


def test_a_thinned_curve_keeps_its_extremes() -> None:
    points = [(step, math.sin(step / 50)) for step in range(10_000)]
    points[5_003] = (5_003, 9.0)
    points[7_777] = (7_777, -9.0)
    points[100] = (100, math.nan)
    kept = thinned(points)
    assert len(kept) <= 300 and set(kept) <= set(points)
    assert (5_003, 9.0) in kept and (7_777, -9.0) in kept
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert thinned(points[:300]) == points[:300]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.1, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_text_and_lines_stand_out_from_their_paper() -> None:
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    papers = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root[^{]*\{([^}]*--c0[^}]*)\}", style)]
    assert len(papers) == 3 and papers[1] == papers[2], "the button and the system mean the same dark"
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for colours in ({**papers[0]}, {**papers[0], **papers[1]}):
        for text in ("ink", "soft", "link", "good", "bad"):
            for paper in ("paper", "raised"):
                assert contrast(colours[text], colours[paper]) >= 4.5, (text, paper)
        assert contrast(colours["ink"], colours["warn"]) >= 4.5 and contrast(colours["soft"], colours["best"]) >= 4.5
        assert contrast("#10131a", colours["observed"]) >= 4.5 and contrast("#10131a", colours["forecast"]) >= 4.5
        for line in (*(f"c{place}" for place in range(7)), "gray", "focus"):
            assert contrast(colours[line], colours["paper"]) >= 3, line
