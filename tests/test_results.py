import io
import math
import re
from typing import Any

from rich.console import Console

from stpredict.results import WIDEST, Scores


def made_up() -> Scores:
    def numbers(mse: float, psnr: float) -> dict[str, Any]:
        return {"mse": {"mean": mse, "per_lead": [mse, math.nan]}, "psnr": {"mean": psnr, "per_lead": [math.inf, psnr]}}

    scores = {"[red]a|<b>": numbers(1.23456, math.nan), "ours": numbers(2.0, 12.5), "persistence": numbers(1.23456, 11.0)}
    return Scores(
        "per-pixel", "toy", "test", "abcd", 9, 10, 2, "mm/h", scores, ("persistence",), {"mse": "lower", "psnr": "higher"}, "0.0.9"
    )


def test_the_dictionary_is_the_contract() -> None:
    assert made_up().to_dict() == {
        "protocol": "per-pixel",
        "data": {"card": "toy", "split": "test", "hash": "abcd", "clips": 9, "context": 10, "horizon": 2, "units": "mm/h"},
        "scores": {
            "[red]a|<b>": {"mse": {"mean": 1.23456, "per_lead": [1.23456, None]}, "psnr": {"mean": None, "per_lead": [None, None]}},
            "ours": {"mse": {"mean": 2.0, "per_lead": [2.0, None]}, "psnr": {"mean": 12.5, "per_lead": [None, 12.5]}},
            "persistence": {"mse": {"mean": 1.23456, "per_lead": [1.23456, None]}, "psnr": {"mean": 11.0, "per_lead": [None, 11.0]}},
        },
        "version": "0.0.9",
    }


def test_markdown_marks_the_best_and_escapes_names() -> None:
    assert made_up().markdown() == (
        "toy test: 9 clips, 10 + 2 frames, units mm/h, protocol per-pixel\n\n"
        "| predictor | mse ↓ | psnr ↑ |\n"
        "|---|---:|---:|\n"
        "| [red]a\\|&lt;b&gt; | **1.235** | nan |\n"
        "| ours | 2 | **12.5** |\n"
        "| persistence | **1.235** | 11 |\n"
    )


def test_the_table_marks_the_best_and_draws_a_line_above_the_baselines() -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard", record=True)
    console.print(made_up().table())
    styled = console.export_text(styles=True, clear=False)
    lines = console.export_text().splitlines()
    for text, bold in (("1.235", True), ("12.5", True), ("11", False), ("nan", False)):
        assert bool(re.search(rf"\x1b\[1m *{text}\x1b\[0m", styled)) == bold and text in styled
    rows = [number for number, line in enumerate(lines) if any(name in line for name in ("[red]a|<b>", "ours", "persistence"))]
    assert rows[1] == rows[0] + 1 and rows[2] == rows[1] + 2


def with_thresholds(parts: int = 2) -> Scores:
    def numbers(*values: float) -> dict[str, Any]:
        alone: dict[str, Any] = {f"{number}.5": {"mean": value, "per_lead": [value, value]} for number, value in enumerate(values)}
        return {"csi": {"mean": sum(values) / len(values), "per_lead": [0.5, 0.5], "parts": alone}}

    scores = {"ours": numbers(*[0.5] * parts), "persistence": numbers(*[0.25] * (parts - 1), 0.75)}
    skill = {
        "over": "persistence",
        "resample": "films",
        "replicates": 1000,
        "scores": {"ours": {"csi": dict(value=0.25, low=-0.1, high=math.nan)}},
    }
    return Scores("per-pixel", "toy", "test", "abcd", 9, 10, 2, "mm/h", scores, ("persistence",), {"csi": "higher"}, "0.0.9", 5, skill)


def test_scores_of_several_numbers_and_skill_have_tables_of_their_own() -> None:
    assert with_thresholds().markdown() == (
        "toy test: 9 clips, 10 + 2 frames, units mm/h, protocol per-pixel\n\n"
        "| predictor | csi ↑ |\n"
        "|---|---:|\n"
        "| ours | **0.5** |\n"
        "| persistence | **0.5** |\n"
        "\ncsi ↑\n\n"
        "| predictor | 0.5 | 1.5 |\n"
        "|---|---:|---:|\n"
        "| ours | **0.5** | 0.5 |\n"
        "| persistence | 0.25 | **0.75** |\n"
        "\nskill over persistence, with 95 % intervals over films\n\n"
        "| predictor | csi |\n"
        "|---|---:|\n"
        "| ours | 0.250 [-0.100, nan] |\n"
    )
    console = Console(width=100, file=io.StringIO(), record=True)
    for table in with_thresholds().tables():
        console.print(table)
    drawn = console.export_text()
    assert "0.250 [-0.100, nan]" in drawn and "skill over persistence" in drawn and "1.5" in drawn


def test_scores_of_very_many_numbers_stay_in_the_file() -> None:
    assert len(with_thresholds(WIDEST).tables()) == 3 and len(with_thresholds(WIDEST + 1).tables()) == 2
    assert len(with_thresholds(WIDEST + 1).to_dict()["scores"]["ours"]["csi"]["parts"]) == WIDEST + 1


def test_the_dictionary_holds_parts_members_and_skill_where_there_are_such() -> None:
    plain = with_thresholds().to_dict()
    assert plain["members"] == 5
    assert plain["skill"]["scores"]["ours"]["csi"] == {"value": 0.25, "low": -0.1, "high": None}
    assert plain["scores"]["persistence"]["csi"]["parts"] == {
        "0.5": {"mean": 0.25, "per_lead": [0.25, 0.25]},
        "1.5": {"mean": 0.75, "per_lead": [0.75, 0.75]},
    }
    assert {"members", "skill"}.isdisjoint(made_up().to_dict())
