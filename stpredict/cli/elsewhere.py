"""``stpredict export`` and ``stpredict hub``: predictors that go elsewhere."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stpredict.cli.options import Commands, add_allow_code, add_command, add_predictors, new_file, whole_number
from stpredict.errors import UserError

if TYPE_CHECKING:
    from stpredict.predictor import Predictor


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands, "export", "write a predictor as a program that runs without stpredict", "stpredict export runs/demo-1 --out demo.onnx"
    )
    add_predictors(parser, several=False)
    parser.add_argument("--out", metavar="FILE", type=new_file, required=True, help="what to write: .pt2 (torch.export) or .onnx")
    parser.add_argument("--what", choices=("forecast", "step"), default="forecast", help="a whole forecast or one step (default: forecast)")
    parser.add_argument("--horizon", metavar="N", type=whole_number, help="frames to forecast (default: the predictor's own)")
    parser.add_argument("--batch", metavar="N", type=whole_number, help="clips at a time (default: any number)")
    parser.set_defaults(action=_export)

    group = add_command(commands, "hub", "share predictors on the Hugging Face Hub", "stpredict hub pull owner/name --out name.safetensors")
    actions = group.add_group()

    parser = add_command(
        actions, "push", "put a predictor and its model card on the Hub", "stpredict hub push runs/demo-1 owner/demo --private"
    )
    add_predictors(parser, several=False)
    parser.add_argument("repository", metavar="REPO", help="owner/name; it is made if there is none")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--licence", metavar="L", help="of the weights, such as apache-2.0 (default: the card says that it is not known)")
    parser.set_defaults(action=_push)

    parser = add_command(actions, "pull", "fetch a predictor from the Hub", "stpredict hub pull owner/name --out name.safetensors")
    parser.add_argument("repository", metavar="REPO", help="owner/name")
    parser.add_argument("--out", metavar="FILE", type=new_file, required=True, help="what to write: .safetensors")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit (default: the newest)")
    add_allow_code(parser)
    parser.set_defaults(action=_pull)


def _export(arguments: argparse.Namespace) -> int:
    from stpredict.export import export_predictor

    predictor = _load(arguments, "exported")
    print(export_predictor(predictor, arguments.out, what=arguments.what, horizon=arguments.horizon, batch=arguments.batch))
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from stpredict.hub import push_predictor

    predictor = _load(arguments, "put on the Hub")
    print(push_predictor(predictor, arguments.repository, private=arguments.private, licence=arguments.licence))
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    from stpredict.hub import pull_predictor

    pull_predictor(arguments.repository, arguments.out, revision=arguments.revision, allow=arguments.allow_code)
    print(arguments.out)
    return 0


def _load(arguments: argparse.Namespace, done: str) -> Predictor:
    from stpredict.predictor import Predictor, load_predictor

    predictor = load_predictor(arguments.predictor, allow=arguments.allow_code)
    if not isinstance(predictor, Predictor):
        raise UserError(f"'{arguments.predictor}' is no trained predictor, and only such a one can be {done}")
    return predictor
