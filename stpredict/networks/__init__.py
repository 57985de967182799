"""Networks by name: what learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stpredict import extensions
from stpredict.configuration import build, convert, settings_of
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.networks.contract import Constants, DirectNetwork, Network, RecurrentNetwork, State, Step, given_channels

__all__ = [
    "NETWORKS",
    "Constants",
    "DirectNetwork",
    "Network",
    "RecurrentNetwork",
    "State",
    "Step",
    "create_network",
    "given_channels",
    "list_networks",
    "make_network",
    "names_of_networks",
]

NETWORKS = {
    "convlstm": "stpredict.networks.convlstm:ConvLSTM",
    "convgru": "stpredict.networks.convlstm:ConvGRU",
    "convrnn": "stpredict.networks.convlstm:ConvRNN",
    "predrnn": "stpredict.networks.predrnn:PredRNN",
    "predrnn_v2": "stpredict.networks.predrnn:PredRNNv2",
    "predrnnpp": "stpredict.networks.predrnnpp:PredRNNpp",
    "e3d_lstm": "stpredict.networks.e3d_lstm:E3DLSTM",
    "simvp": "stpredict.networks.simvp:SimVP",
    "encoder_forecaster": "stpredict.networks.encoder_forecaster:EncoderForecaster",
    "residual": "stpredict.residual:Residual",
}


def list_networks() -> list[str]:
    """Return the names that :func:`create_network` knows: ours and those of installed packages."""
    return sorted({*NETWORKS, *extensions.installed_names("networks")})


def create_network(
    name: str,
    *,
    channels: int,
    hidden: Sequence[int] | None = None,
    kernel_size: int | None = None,
    patch_size: int | None = None,
    frame_size: tuple[int, int] | None = None,
    **settings: Any,
) -> Network:
    """Create a network with fresh weights, drawn from torch's own generator.

    ==================  ==================================  ==============================  =========================================
    name                paper                               code with the same numbers      difference left
    ==================  ==================================  ==============================  =========================================
    convrnn             Elman 1990, with convolutions       none compared                   none
    convgru             Shi et al. 2017, arXiv 1706.03458   none compared                   stacked next-frame form; tanh by default
    convlstm            Shi et al. 2015, arXiv 1506.04214   OpenSTL 0.x, 1.x                stacked next-frame form; peepholes and
                                                                                            biases are options, as the code has none
    predrnn             Wang et al., NeurIPS 2017           predrnn-pytorch, OpenSTL        no biases, forget bias 1, as the code
    predrnn_v2          Wang et al. 2022, arXiv 2103.09504  predrnn-pytorch, OpenSTL        decoupling averaged, not summed, as the
                                                                                            code; adapter not run in forecasts
    predrnnpp           Wang et al. 2018, arXiv 1804.06300  predrnn-pp, OpenSTL 0.x, 1.x    gates as the code: h in o, no m in g'
    e3d_lstm            Wang et al. 2019, ICLR              e3d_lstm, OpenSTL               gates as the code: m through a tanh
                                                                                            convolution, o a sigmoid of a tanh
    encoder_forecaster  Shi et al. 2015 and 2017            none compared                   deepest forecaster cell has no input
    simvp               Tan et al. 2022, arXiv 2211.12509   OpenSTL 0.x, 1.x                none
    residual            none                                none compared                   learns what extrapolation gets wrong
    ==================  ==================================  ==============================  =========================================

    Where published code has had more than one maths, a setting names it:

    * ``convlstm``: ``hidden_from="candidate"`` is OpenSTL before December 2023, and all its released weights.
    * ``predrnnpp``: ``temporal_from="memory"`` likewise; ``norm="channel", bias=True`` is predrnn-pp; ``highway`` moves or removes the
      gradient highway.
    * ``e3d_lstm``: ``memory="frozen"`` is both published codes, ``updated`` the paper; ``form="padded"`` (with ``norm="channel",
      norm_epsilon=1e-12, bias=True, readout_bias=True``) is e3d_lstm, ``form="stretched"`` OpenSTL; ``recall`` is the paper's tau.
    * ``encoder_forecaster``: ``cell`` is ``convlstm`` (2015) or ``convgru`` (2017).
    * ``simvp``: ``translator`` is ``gsta`` or ``incepu``.

    Args:
        name: one of :func:`list_networks`, or a class of your own as ``package.module:Class``.
        channels: C of a frame.
        hidden: channels of each layer; of ``simvp``, of its encoder and its translator.
        kernel_size: of the gate convolutions.
        patch_size: P; frames become a grid of H/P x W/P patches.
        frame_size: (H, W) of a frame; required where parameters depend on it.
        **settings: what else the network's own signature takes; ``context``, the observed frames, where parameters depend on it (simvp);
            ``noise_channels``, by which the members of an ensemble differ, of every network that takes ``known_channels``; ``spec``, what
            the numbers of a frame mean, for ``residual``, which without one takes scaled frames for physical ones.

    Raises:
        UserError: the name is unknown, or a setting is unknown, missing or impossible.
    """
    context, spec = settings.pop("context", None), settings.pop("spec", None)
    named = {"hidden": hidden, "kernel_size": kernel_size, "patch_size": patch_size}
    given = {**{key: value for key, value in named.items() if value is not None}, **settings}
    return make_network(name, given, channels=channels, frame_size=frame_size, context=context, spec=spec)


def make_network(
    name: str,
    settings: Mapping[str, Any],
    *,
    channels: int,
    frame_size: tuple[int, int] | None,
    context: int | None = None,
    spec: FrameSpec | None = None,
    where: str = "network",
) -> Network:
    """Create a network from the settings of a config or a predictor file; what the data tell is passed beside them.

    A network is told the size, the context and the meaning of its frames if its signature asks for ``frame_size``, ``context`` or
    ``spec``. The setting ``noise_channels`` is one of every network that takes ``known_channels``: so many more known inputs, which
    are noise. ``where`` is the section that the settings come from.
    """
    target = extensions.find("networks", name, NETWORKS)
    known, open_ended = settings_of(target)
    settings, noise = _with_noise(name, settings, "known_channels" in known or open_ended)
    facts: dict[str, Any] = {"channels": channels}
    if frame_size is not None and "frame_size" in known:
        facts["frame_size"] = tuple(frame_size)
    if context is not None and "context" in known:
        facts["context"] = context
    if spec is not None and "spec" in known:
        facts["spec"] = spec
    clash = sorted(set(facts) & set(settings))
    if clash:
        raise UserError(f"'{where}.{clash[0]}' follows from the data and cannot be set")
    network = build(target, {**settings, **facts}, where=where, read_elsewhere=["name", "weights", "mismatch", "noise_channels"])
    if not isinstance(network, RecurrentNetwork | DirectNetwork):
        raise UserError(
            f"'{name}' is no network: it must be a RecurrentNetwork or DirectNetwork of stpredict, not {type(network).__name__}"
        )
    if noise:
        network.known_channels, network.noise_channels, network.stochastic = settings["known_channels"], noise, True
    return network


def _with_noise(name: str, settings: Mapping[str, Any], takes_known: bool) -> tuple[dict[str, Any], int]:
    """Return the settings of a network's own signature, its known inputs those of noise included, and how many are noise."""
    own = dict(settings)
    noise = convert(int, own.pop("noise_channels", 0), "network.noise_channels")
    if noise < 0:
        raise UserError(f"network.noise_channels is how many noise inputs there are, at least 0, not {noise}")
    if noise and not takes_known:
        raise UserError(f"The network '{name}' takes no known inputs, and so no noise: leave network.noise_channels out")
    if noise:
        own["known_channels"] = convert(int, own.get("known_channels", 0), "network.known_channels") + noise
    return own, noise


def names_of_networks(section: Any) -> list[str]:
    """Return the names in a section that says what a network is: its own, and that of the network within it (``of``)."""
    if not isinstance(section, Mapping):
        return []
    return [str(section["name"]), *names_of_networks(section.get("of"))] if "name" in section else names_of_networks(section.get("of"))
