import csv
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from stpredict.errors import UserError
from stpredict.results import WIDEST, Scores, compatible, differing, grouped
from stpredict.results.text import Cell, Sheet


def about(kind: str = "predictor", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "network": None, "weights": None, "hash": None, "provenance": {}, **more}


def made_up(interval: bool = False, **more: Any) -> Scores:
    def numbers(mse: float, psnr: float) -> dict[str, Any]:
        found: dict[str, Any] = {
            "mse": {"mean": mse, "per_lead": [mse, math.nan]},
            "psnr": {"mean": psnr, "per_lead": [math.inf, psnr]},
        }
        if interval:
            found["mse"] |= {"interval": [mse - 0.1, mse + 0.11], "per_lead_interval": [[mse - 0.2, math.nan], [mse + 0.2, math.nan]]}
            found["psnr"] |= {"interval": [psnr - 2, psnr + 1], "per_lead_interval": [[math.nan] * 2] * 2}
        return found

    scores = {"[red]a|<b>": numbers(1.23456, math.nan), "ours": numbers(2.0, 12.5), "persistence": numbers(1.23456, 11.0)}
    network = about(network="predrnn", weights=12, hash="ab" * 16, provenance={"run": "demo-1"})
    facts: dict[str, Any] = {
        "protocol": "per-pixel",
        "card": "toy",
        "split": "test",
        "hash": "abcd",
        "clips": 9,
        "context": 10,
        "horizon": 2,
        "units": "mm/h",
        "scores": scores,
        "predictors": {"[red]a|<b>": about("forecasts"), "ours": network, "persistence": about("baseline")},
        "better": {"mse": "lower", "psnr": "higher"},
        "time_step": 300.0,
        "version": "0.0.9",
        "selected": {"mse": {"ours": {"best": 3, "median": 0, "worst": 8}}},
    }
    return Scores(**{**facts, **more})


PUBLISHED = {"PredRNN & <friends>": {"page": "https://example.org/x", "scores": {"mse": 1.5}}}


def test_the_dictionary_is_the_contract() -> None:
    told = made_up(published=PUBLISHED, warnings=("look out",), members=5).to_dict()
    assert told == {
        "protocol": "per-pixel",
        "data": {
            "card": "toy",
            "split": "test",
            "hash": "abcd",
            "clips": 9,
            "context": 10,
            "horizon": 2,
            "units": "mm/h",
            "time_step": 300.0,
        },
        "members": 5,
        "predictors": {
            "[red]a|<b>": about("forecasts"),
            "ours": about(network="predrnn", weights=12, hash="ab" * 16, provenance={"run": "demo-1"}),
            "persistence": about("baseline"),
        },
        "scores": {
            "[red]a|<b>": {"mse": {"mean": 1.23456, "per_lead": [1.23456, None]}, "psnr": {"mean": None, "per_lead": [None, None]}},
            "ours": {"mse": {"mean": 2.0, "per_lead": [2.0, None]}, "psnr": {"mean": 12.5, "per_lead": [None, 12.5]}},
            "persistence": {"mse": {"mean": 1.23456, "per_lead": [1.23456, None]}, "psnr": {"mean": 11.0, "per_lead": [None, 11.0]}},
        },
        "better": {"mse": "lower", "psnr": "higher"},
        "resample": "clips",
        "selected": {"mse": {"ours": {"best": 3, "median": 0, "worst": 8}}},
        "published": PUBLISHED,
        "warnings": ["look out"],
        "version": "0.0.9",
    }
    assert {"members", "published", "warnings", "over"}.isdisjoint(made_up().to_dict())
    lows, highs = made_up(interval=True).to_dict()["scores"]["ours"]["mse"]["per_lead_interval"]
    assert (lows, highs) == ([1.8, None], [2.2, None])


def test_markdown_marks_the_best_and_escapes_names() -> None:
    assert made_up().markdown() == (
        "toy test: 9 clips, 10 + 2 frames, units mm/h, protocol per-pixel\n\n"
        "| predictor | mse ↓ | psnr ↑ |\n"
        "|---|---:|---:|\n"
        "| \\[red\\]a\\|&lt;b&gt; | **1.235** | nan |\n"
        "| ours | 2.000 | **12.50** |\n"
        "| persistence | **1.235** | 11.00 |\n"
    )
    assert made_up(interval=True, published=PUBLISHED).markdown() == (
        "toy test: 9 clips, 10 + 2 frames, units mm/h, protocol per-pixel\n\n"
        "| predictor | mse ↓ | psnr ↑ |\n"
        "|---|---:|---:|\n"
        "| \\[red\\]a\\|&lt;b&gt; | **1.235** [1.135, 1.345] | nan |\n"
        "| ours | 2.000 [1.900, 2.110] | **12.50** [10.50, 13.50] |\n"
        "| persistence | **1.235** [1.135, 1.345] | 11.00 [9.000, 12.00] |\n"
        "| PredRNN &amp; &lt;friends&gt; (published) | 1.500 | nan |\n"
        "\nin brackets: 95 % intervals over clips\n"
    )


def test_markdown_takes_no_name_for_a_link_or_another_type() -> None:
    names = {
        "[x](https://a.b)": r"\[x\](https://a.b)",
        "*bold* `code` ~~gone~~": r"\*bold\* \`code\` \~\~gone\~\~",
        "_slanted_ d_simvp a__b": r"\_slanted\_ d_simvp a\_\_b",
        "back\\slash\ntwo  lines": r"back\\slash two lines",
    }
    table = Sheet("title", ["mse_sum"], {name: [Cell(1.0)] for name in names}).markdown()
    assert table.splitlines()[2:] == ["| predictor | mse_sum |", "|---|---:|", *(f"| {shown} | 1.000 |" for shown in names.values())]


def test_latex_is_escaped() -> None:
    scores = {r"a_1 & 5% #{\x}~^$": {"mse": {"mean": 12345.6, "interval": [1.5, 2.5], "per_lead": [1.0, 1.0]}}}
    written = made_up(scores=scores, predictors={}, card="my_card", resample="films").latex()
    assert written == "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\caption{my\_card test: 9 clips, 10 + 2 frames, units mm/h, protocol per-pixel; in brackets: 95 \% intervals over films}",
            r"\begin{tabular}{lr}",
            r"\toprule",
            r"predictor & mse $\downarrow$ \\",
            r"\midrule",
            r"a\_1 \& 5\% \#\{\textbackslash{}x\}\textasciitilde{}\textasciicircum{}\$ & \textbf{12346} {\footnotesize [1.500, 2.500]} \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
    whole = made_up(interval=True, published=PUBLISHED).latex()
    assert whole.count(r"\midrule") == 3, "above the first row, the baselines and what is published"
    assert r"{[}red{]}a\textbar{}\textless{}b\textgreater{} & \textbf{1.235} {\footnotesize [1.135, 1.345]} & nan \\" in whole


def test_a_row_of_csv_for_each_number() -> None:
    rows = list(csv.DictReader(io.StringIO(made_up(interval=True).csv())))
    assert len(rows) == 3 * 2 * (1 + 2)
    assert {row["card"] for row in rows} == {"toy"} and {row["protocol"] for row in rows} == {"per-pixel"}
    ours = [row for row in rows if (row["predictor"], row["score"]) == ("ours", "mse")]
    assert [(row["lead"], row["mean"], row["low"], row["high"]) for row in ours] == [
        ("", "2.0", "1.9", "2.11"),
        ("1", "2.0", "1.8", "2.2"),
        ("2", "", "", ""),
    ]
    infinite = next(row for row in rows if (row["score"], row["lead"]) == ("psnr", "1"))
    assert infinite["mean"] == "inf" and infinite["low"] == ""
    parts = [row["part"] for row in csv.DictReader(io.StringIO(with_thresholds().csv())) if row["predictor"] == "ours"]
    assert parts == [""] * 3 + ["0.5"] * 3 + ["1.5"] * 3


def test_a_row_of_csv_for_each_clip(tmp_path: Path) -> None:
    per_clip = {"=a,b": {"mse": np.array([0.1, math.nan]), "psnr": np.array([math.inf, 2.0])}}
    start = int(np.datetime64("2010-08-26T03:00", "s").astype(int))
    scores = {"=a,b": {name: {"mean": 1.0, "per_lead": [1.0, 1.0]} for name in ("mse", "psnr")}}
    made_up(scores=scores, per_clip=per_clip, indices=(4, 7), films=("one", "two, too"), starts=(start, start + 60)).write_clips(
        tmp_path / "clips.csv"
    )
    assert (tmp_path / "clips.csv").read_text() == (
        'predictor,clip,film,start,mse,psnr\n"=a,b",4,one,2010-08-26T03:00:00,0.1,inf\n"=a,b",7,"two, too",2010-08-26T03:01:00,,2.0\n'
    )


def test_the_form_of_a_file_is_told_by_its_name(tmp_path: Path) -> None:
    scores = made_up(interval=True)
    texts = {"json": json.dumps(scores.to_dict(), indent=2) + "\n", "csv": scores.csv(), "md": scores.markdown(), "tex": scores.latex()}
    for suffix, text in texts.items():
        scores.write(tmp_path / f"scores.{suffix}")
        assert (tmp_path / f"scores.{suffix}").read_text() == text
    with pytest.raises(UserError, match=r"Scores are written as .json, .csv, .md, .tex, not as '.txt'"):
        scores.write(tmp_path / "scores.txt")
    assert not (tmp_path / "scores.txt").exists()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for number, scores in enumerate((made_up(), made_up(interval=True, published=PUBLISHED, warnings=("a",)), with_thresholds())):
        path = tmp_path / f"{number}.json"
        scores.write(path)
        again = Scores.read(path)
        assert again.to_dict() == scores.to_dict() and again.baselines == scores.baselines
        assert again.markdown() == scores.markdown() and again.csv().replace("inf", "") == scores.csv().replace("inf", "")


def over_with(**more: Any) -> dict[str, Any]:
    return {"name": "x", "skill": {"ours": {"mse": {"value": 0.1, "low": 0.0, "high": 0.2, **more}}}, "differences": {}}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda told: told.pop("data"), "'data' is no object"),
        (lambda told: told["data"].update(clips=True), "'data.clips' is no count"),
        (lambda told: told["data"].update(card=3), "'data.card' is no text"),
        (lambda told: told["scores"].clear(), "'scores' holds no predictor"),
        (lambda told: told["scores"]["ours"]["mse"].update(mean="<script>"), "'scores.ours.mse.mean' is no number"),
        (lambda told: told["scores"]["ours"]["mse"].update(per_lead=[1.0]), "'scores.ours.mse.per_lead' is not 2 numbers"),
        (lambda told: told["scores"]["ours"]["mse"].update(interval=[1.0, 2.0, 3.0]), "'scores.ours.mse.interval' is not 2 numbers"),
        (lambda told: told["scores"]["ours"]["mse"].update(per_lead_interval=[[1.0, 2.0]]), "is not two lists"),
        (lambda told: told["scores"]["ours"]["mse"].update(mean=10**400), "too large"),
        (lambda told: told.update(better={"mse": "best"}), "'better.mse' is 'best'"),
        (lambda told: told.update(selected={"mse": {"ours": {"best": -1}}}), "'selected.mse.ours.best' is no count"),
        (lambda told: told["predictors"]["ours"].update(kind="film"), "'predictors.ours.kind' is 'film'"),
        (lambda told: told.update(over={"name": "x", "skill": {}}), "'over.differences' is no object"),
        (lambda told: told.update(over=over_with(per_lead=[0.1])), "'over.skill.ours.mse.per_lead' is not 2 numbers"),
        (lambda told: told.update(over=over_with(per_lead=[0.1, 0.2])), "'over.skill.ours.mse.per_lead_interval' is not two lists"),
        (lambda told: told.update(published={"x": {"page": None, "scores": {}}}), "'published.x.page' is no text"),
        (lambda told: told.update(warnings="none"), "'warnings' is no list"),
    ],
)
def test_foreign_and_damaged_files_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], why: str) -> None:
    told = made_up(interval=True).to_dict()
    change(told)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match=re.escape(why)) as caught:
        Scores.read(path)
    assert "is no whole file of scores" in str(caught.value) and "make it by 'stpredict evaluate ... --out scores.json'" in str(
        caught.value
    )


@pytest.mark.parametrize("text", ["", "[]", '{"a":', "[" * 100_000, '"x"', "\ud800"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="is no whole file of scores"):
        Scores.read(tmp_path / "scores.json")
    with pytest.raises(UserError, match="There is no file of scores"):
        Scores.read(tmp_path / "none.json")


def test_only_scores_of_one_kind_may_stand_in_one_table() -> None:
    first, again = made_up(), made_up(scores={"other": {"mse": {"mean": 1.0, "per_lead": [1.0, 1.0]}}}, predictors={})
    others = [made_up(protocol="openstl"), made_up(split="train"), made_up(hash="other"), made_up(units="dBZ"), made_up(members=3)]
    assert compatible(first, again) and differing(first, again) == []
    assert not any(compatible(first, other) for other in others)
    assert differing(first, others[0]) == ["protocol per-pixel and openstl"]
    assert differing(first, others[2]) == ["clips abcd and other"]
    assert [[len(one.scores) for one in group] for group in grouped([first, others[0], again, *others[1:]])] == [[3, 1], *([[3]] * 5)]


def test_the_table_marks_the_best_and_draws_a_line_above_the_baselines() -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard", record=True)
    console.print(made_up().table())
    styled = console.export_text(styles=True, clear=False)
    lines = console.export_text().splitlines()
    for text, bold in (("1.235", True), ("12.50", True), ("11.00", False), ("nan", False)):
        assert bool(re.search(rf"\x1b\[1m *{text}\x1b\[0m", styled)) == bold and text in styled
    rows = [number for number, line in enumerate(lines) if any(name in line for name in ("[red]a|<b>", "ours", "persistence"))]
    assert rows[1] == rows[0] + 1 and rows[2] == rows[1] + 2


def with_thresholds(parts: int = 2) -> Scores:
    def numbers(*values: float) -> dict[str, Any]:
        alone: dict[str, Any] = {f"{number}.5": {"mean": value, "per_lead": [value, value]} for number, value in enumerate(values)}
        return {"csi": {"mean": sum(values) / len(values), "per_lead": [0.5, 0.5], "parts": alone}}

    scores = {"ours": numbers(*[0.5] * parts), "persistence": numbers(*[0.25] * (parts - 1), 0.75)}
    over = {
        "name": "persistence",
        "skill": {"ours": {"csi": dict(value=0.25, low=-0.1, high=math.nan)}},
        "differences": {
            "ours": {"csi": dict(value=0.125, low=0.05, high=0.2, per_lead=[0.1, 0.15], per_lead_interval=[[0.0, 0.05], [0.2, math.nan]])}
        },
    }
    return made_up(scores=scores, better={"csi": "higher"}, members=5, over=over, selected={}, resample="films")


def test_scores_of_several_numbers_skill_and_differences_have_tables_of_their_own() -> None:
    assert with_thresholds().markdown() == (
        "toy test: 9 clips, 10 + 2 frames, units mm/h, protocol per-pixel\n\n"
        "| predictor | csi ↑ |\n"
        "|---|---:|\n"
        "| ours | **0.5000** |\n"
        "| persistence | **0.5000** |\n"
        "\ncsi ↑\n\n"
        "| predictor | 0.5 | 1.5 |\n"
        "|---|---:|---:|\n"
        "| ours | **0.5000** | 0.5000 |\n"
        "| persistence | 0.2500 | **0.7500** |\n"
        "\nskill over persistence\n\n"
        "| predictor | csi |\n"
        "|---|---:|\n"
        "| ours | 0.250 [-0.100, nan] |\n"
        "\nin brackets: 95 % intervals over films; in bold: 0 lies outside\n"
        "\ndifference from persistence\n\n"
        "| predictor | csi |\n"
        "|---|---:|\n"
        "| ours | **0.1250** [0.05000, 0.2000] |\n"
        "\nin brackets: 95 % intervals over films; in bold: 0 lies outside\n"
    )
    console = Console(width=100, file=io.StringIO(), record=True)
    for table in with_thresholds().tables():
        console.print(table)
    drawn = console.export_text()
    assert "[-0.100, nan]" in drawn and "±0.075" in drawn and "skill over persistence" in drawn and "1.5" in drawn


def test_intervals_in_short() -> None:
    assert Cell(2.0, 1.9, 2.11).spread == "±0.11"
    assert Cell(2.0, 1.9, 2.2).spread == "+0.2\n-0.1"
    assert Cell(2.0).spread == "" and Cell(math.inf, 1.0, math.inf).spread == "[1.000, inf]"
    assert Cell(4000.0, 3875.0, 4500.0).spread == "+500\n-125"
    assert Cell(0.0, 0.0, 0.0).spread == "±0"


def test_scores_of_very_many_numbers_stay_in_the_file() -> None:
    assert len(with_thresholds(WIDEST).tables()) == 4 and len(with_thresholds(WIDEST + 1).tables()) == 3
    assert len(with_thresholds(WIDEST + 1).to_dict()["scores"]["ours"]["csi"]["parts"]) == WIDEST + 1


def test_the_dictionary_holds_parts_members_and_comparisons_where_there_are_such() -> None:
    plain = with_thresholds().to_dict()
    assert plain["members"] == 5
    assert plain["over"]["name"] == "persistence" and plain["over"]["skill"]["ours"]["csi"] == {"value": 0.25, "low": -0.1, "high": None}
    by_lead = {"per_lead": [0.1, 0.15], "per_lead_interval": [[0.0, 0.05], [0.2, None]]}
    assert plain["over"]["differences"]["ours"]["csi"] == {"value": 0.125, "low": 0.05, "high": 0.2, **by_lead}
    assert plain["scores"]["persistence"]["csi"]["parts"] == {
        "0.5": {"mean": 0.25, "per_lead": [0.25, 0.25]},
        "1.5": {"mean": 0.75, "per_lead": [0.75, 0.75]},
    }
