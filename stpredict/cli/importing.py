"""``stpredict import``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.cli.options import Commands, add_command, add_computing, new_file, whole_number
from stpredict.errors import UserError
from stpredict.weights.facts import CHOICES, EXPLAINED

if TYPE_CHECKING:
    from stpredict.predictor import Predictor
    from stpredict.weights.catalogue import Published


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(
        commands,
        "import",
        "make a predictor of weights that others have published",
        "stpredict import mmnist_predrnn_one_ep200 --out predrnn.safetensors\n"
        "  stpredict import model.ckpt-80000 --patch-size 4 --context 10 --out mine.safetensors\n"
        "  stpredict import --verify predrnn.safetensors --root ~/mnist",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="a file of torch.save, a TensorFlow 1 checkpoint, or a name of the catalogue, whose file is fetched",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--out", metavar="FILE", type=new_file, help="what to write: .safetensors")
    what.add_argument("--list", action="store_true", help="show the catalogue of published weights (those whose name holds CHECKPOINT)")
    what.add_argument("--verify", metavar="PREDICTOR", help="score an imported predictor where its published figures were taken")
    parser.add_argument("--source", metavar="NAME", default="auto", help="the program whose checkpoint it is (default: recognised)")
    for name, words in EXPLAINED.items():
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        if name in CHOICES:
            parser.add_argument(*spellings, dest=name, choices=CHOICES[name], help=words)
        else:
            parser.add_argument(*spellings, dest=name, metavar="N", type=whole_number, help=words)
    parser.add_argument("--mirror", metavar="URL", help="fetch from here instead of from where it was published")
    parser.add_argument("--root", metavar="FOLDER", type=Path, help="of the data that --verify scores on")
    parser.add_argument("--limit", metavar="N", type=whole_number, help="let --verify score the first N clips only")
    add_computing(parser)
    parser.set_defaults(action=_import)


def _import(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list(arguments.checkpoint or "")
    if arguments.verify is not None:
        return _verify(arguments)
    return _write(arguments)


def _write(arguments: argparse.Namespace) -> int:
    if arguments.checkpoint is None or arguments.out is None:
        raise UserError("'stpredict import' needs CHECKPOINT and --out FILE.safetensors, or --list, or --verify PREDICTOR")
    if arguments.out.suffix != ".safetensors":
        raise UserError(f"A predictor file ends in .safetensors, not '{arguments.out.suffix}': {arguments.out}")
    from stpredict.weights import import_predictor

    path, published = _find(arguments.checkpoint, arguments.mirror)
    facts = {name: getattr(arguments, name) for name in EXPLAINED}
    predictor = import_predictor(path, arguments.source, published, **facts)
    predictor.save(arguments.out)
    print("\n".join([*_describe(predictor, published), f"written     {arguments.out}"]))
    return 0


def _find(words: str, mirror: str | None) -> tuple[Path, Published | None]:
    """Return the file that is meant, and its entry in the catalogue if it can be that by name and size."""
    from stpredict.weights.catalogue import CATALOGUE, find_published

    path = Path(words)
    if path.exists() or path.with_name(f"{path.name}.index").exists():
        entry = CATALOGUE.get(path.stem) if path.suffix == ".pth" and path.is_file() else None
        return path, entry if entry is not None and entry.can_have(path.stat().st_size) else None
    if "/" in words or (path.suffix and words not in CATALOGUE):
        raise UserError(f"There is no checkpoint {words}: neither a file nor the prefix of a TensorFlow checkpoint ({words}.index)")
    from stpredict.weights.download import download

    try:
        published = find_published(words)
    except UserError as error:
        raise UserError(f"There is no file {words}, and: {error}") from None
    return download(published, mirror, progress=True), published


def _describe(predictor: Predictor, published: Published | None) -> list[str]:
    provenance = predictor.provenance
    settings = ", ".join(f"{key} {value}" for key, value in predictor.network_settings.items())
    count = sum(weight.numel() for weight in predictor.network.parameters())
    lines = [f"source      {provenance['origin']}"]
    if published is not None:
        lines.append(f"catalogue   {published.name}: {published.benchmark.title}, {published.epochs} epochs")
    lines.append(f"network     {predictor.network_name} ({settings})")
    lines += [f"{'facts' if not index else '':11} {name} {told}" for index, (name, told) in enumerate(provenance["facts"].items())]
    lines.append(f"parameters  {count:,}")
    known = ("origin", "catalogue", "file", "sha256", "facts")
    lines += [f"{key:11} {value}" for key, value in provenance.items() if key not in known and value is not None]
    return [*lines, *(f"sha256      {digest}  {name}" for name, digest in provenance["sha256"].items())]


def _list(word: str) -> int:
    from stpredict.weights.catalogue import list_published

    print("\n".join(list_published(word)))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from stpredict.verification import verify

    found = verify(arguments.verify, arguments.root, limit=arguments.limit, device=arguments.device, progress=True)
    Console().print(found.table())
    return 0
