"""``stpredict study``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.cli.options import DEVICES, KERNELS, Commands, add_command, index, table_console

if TYPE_CHECKING:
    from stpredict.study import Study


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "study",
        "train variants of a recipe with several seeds, at equal cost, and say what tells them apart",
        "stpredict study convlstm-output --root ~/mnist --out studies/convlstm-output",
    )
    parser.add_argument("study", metavar="STUDY", help="the name of a shipped study, a YAML file, or the folder of a study to go on with")
    parser.usage = f"{parser.prog} [options] STUDY [--section.key VALUE ...]"
    parser.description = (
        f"{parser.description} Given again, the command goes on with a study that was stopped; given to several processes, they share its "
        "runs. --score.key VALUE overrides how is scored, any other --section.key VALUE a key of the configs of all runs."
    )
    parser.add_argument("--root", metavar="FOLDER", help="where the files of the data are; short for --data.root")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="the folder of the study (default: studies/<name>)")
    parser.add_argument("--seeds", metavar="N", type=index, nargs="+", help="of the runs of each variant (default: the study's)")
    parser.add_argument("--device", choices=DEVICES, help="short for --trainer.device")
    parser.add_argument("--precision", metavar="P", help="short for --trainer.precision")
    parser.add_argument("--kernels", choices=KERNELS, help="short for --trainer.kernels")
    parser.add_argument("--dry-run", action="store_true", help="take a few steps of each variant, write nothing, say what a run takes")
    parser.set_defaults(action=_study, takes_overrides=True)


def _study(arguments: argparse.Namespace) -> int:
    from stpredict.study import load_study, run_study
    from stpredict.study.tables import tables

    study = load_study(arguments.study, _overrides(arguments), seeds=arguments.seeds)
    if arguments.dry_run:
        return _rehearse(study)
    begun = Path(arguments.study)
    folder = arguments.out or (begun if begun.is_dir() else Path("studies") / study.name)
    outcome = run_study(study, folder, say=lambda words: print(f"stpredict: {words}", file=sys.stderr))
    console = table_console()
    for table in tables(outcome.summary):
        console.print(table)
    for warning in outcome.summary.warnings:
        print(f"stpredict: {warning}", file=sys.stderr)
    if outcome.exit_code:
        print(f"stpredict: {len(outcome.summary.missing)} runs are left; go on with: stpredict study {folder}", file=sys.stderr)
    print(folder)
    return outcome.exit_code


def _rehearse(study: Study) -> int:
    from stpredict.training.rehearsal import rehearse

    for variant in study.variants:
        print(f"{variant}:\n{rehearse(study.settings_of(variant, study.seeds[0]))}")
    print(f"{len(study.runs)} runs, of {len(study.variants)} variants and {len(study.seeds)} seeds")
    return 0


def _overrides(arguments: argparse.Namespace) -> list[str]:
    short = {"data.root": "root", "trainer.device": "device", "trainer.precision": "precision", "trainer.kernels": "kernels"}
    given = {key: getattr(arguments, name) for key, name in short.items()}
    return [*(f"--{key}={value}" for key, value in given.items() if value is not None), *arguments.overrides]
