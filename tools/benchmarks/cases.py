"""What is measured: networks, clips, precisions and kernels that the options of a command ask for, each case the settings of a run."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import stpredict
from benchmarks.networks import SIZES, network_section
from benchmarks.noise import with_noise
from benchmarks.timing import Row
from stpredict import extensions
from stpredict.devices import Precision, choose_device
from stpredict.errors import UserError
from stpredict.files import shipped_names
from stpredict.kernels import Kernels
from stpredict.networks import NETWORKS, DirectNetwork
from stpredict.training import load_settings
from stpredict.training.settings import Settings, make_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which cases are measured."""
    parser.add_argument("--config", nargs="+", metavar="NAME", help="networks, clips and recipes of configs; a folder's name: all in it")
    parser.add_argument("--network", nargs="+", metavar="NAME", help="without a config (default: all)")
    parser.add_argument("--hidden", nargs="+", type=int, metavar="N", help="of each layer (default: 64 64)")
    parser.add_argument("--kernel-size", type=int, metavar="N", help="default: 5")
    parser.add_argument("--patch-size", type=int, metavar="N", help="default: 4")
    parser.add_argument("--size", type=int, metavar="N", help="height and width of a frame (default: 64, or the config's)")
    parser.add_argument("--context", type=int, metavar="N", help="observed frames (default: 10, or the config's)")
    parser.add_argument("--horizon", type=int, metavar="N", help="forecast frames (default: 10, or the config's)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="clips at a time (default: 8, or the config's)")
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=["fp32"], help="default: fp32")
    parser.add_argument("--kernels", nargs="+", choices=get_args(Kernels), default=["auto"], help="default: auto")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto)")


def asked(options: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings of every case: one update of the weights, on noise, forward in time, along the whole horizon.

    Networks that forecast at once, and so have no steps to take again, have no case with recompute.

    Args:
        options: what :func:`add_arguments` reads, and ``recompute``, if there is any: ``off`` and ``on``.

    Raises:
        UserError: options mean nothing together, or there is no such config, network or device.
    """
    check_arguments(options)
    recompute = getattr(options, "recompute", ["off"])
    wanted = [_of_config(name, options) for name in names_of_configs(options.config)] if options.config else _of_networks(options)
    for settings, precision, kernels, again in itertools.product(wanted, options.precision, options.kernels, recompute):
        if again == "on" and _takes_no_steps(settings):
            continue
        trainer = replace(
            settings.trainer,
            device=options.device,
            precision=precision,
            kernels=kernels,
            recompute=again == "on",
            threads=options.threads,
            validate_every=0,
            devices=1,
        )
        yield replace(settings, trainer=trainer)


def check_arguments(options: argparse.Namespace) -> None:
    """Refuse options that mean nothing together.

    Raises:
        UserError: a config says the network, and so do other options; or there is no such device.
    """
    choose_device(options.device)
    if options.config:
        clash = [key for key in ("network", "hidden", "kernel_size", "patch_size") if getattr(options, key) is not None]
        if clash:
            raise UserError(f"A config says which network it is: leave --{clash[0].replace('_', '-')} out beside --config")


def describe(settings: Settings) -> Row:
    """Return the columns of a row that say which case it is."""
    data, trainer = settings.data, settings.trainer
    return {
        "name": settings.name,
        "parameters": None,
        "precision": trainer.precision,
        "kernels": trainer.kernels,
        "batch_size": data.batch_size,
        "frames": f"{data.context} + {data.horizon}",
        "frame": " x ".join(str(data.settings[key]) for key in ("channels", "height", "width")),
    }


def names_of_configs(words: list[str]) -> list[str]:
    """Return names of configs; a folder of shipped ones stands for all that it holds, ``all`` for all that are shipped."""
    shipped = shipped_names("configs")
    return [name for word in words for name in _within(word, shipped) or [word]]


def _within(word: str, shipped: list[str]) -> list[str]:
    return shipped if word == "all" else [name for name in shipped if name.startswith(f"{word.rstrip('/')}/")]


def _takes_no_steps(settings: Settings) -> bool:
    """Whether a network forecasts at once, so that there is nothing in time to recompute."""
    kind = extensions.find("networks", settings.network["name"], NETWORKS)
    return isinstance(kind, type) and issubclass(kind, DirectNetwork)


def _of_config(name: str, options: argparse.Namespace) -> Settings:
    given = {key: getattr(options, key) for key in ("context", "horizon", "batch_size")}
    settings = load_settings(name, [f"--data.{key}={value}" for key, value in given.items() if value is not None])
    data = replace(with_noise(settings.data, options.size), reversed_pass=False)
    network = {key: value for key, value in settings.network.items() if key not in ("weights", "mismatch")}
    sampling = {key: value for key, value in settings.sampling.items() if key not in ("first_horizon", "grown_at")}
    return replace(settings, name=name, network=network, sampling=sampling, data=data)


def _of_networks(options: argparse.Namespace) -> list[Settings]:
    sizes: dict[str, Any] = {key: default if getattr(options, key) is None else getattr(options, key) for key, default in SIZES.items()}
    data = {"card": "moving_digits", **{key: sizes[key] for key in ("context", "horizon", "batch_size")}}
    made = []
    for name in options.network or stpredict.list_networks():
        network = {"name": name, **network_section(name, argparse.Namespace(**sizes))}
        settings = make_settings({"name": name, "data": data, "network": network, "trainer": {"max_steps": 1000}})
        made.append(replace(settings, data=with_noise(settings.data, sizes["size"])))
    return made
