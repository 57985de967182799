"""Networks by name: what learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stpredict import extensions
from stpredict.configuration import build, settings_of
from stpredict.errors import UserError
from stpredict.networks.contract import Constants, DirectNetwork, Network, RecurrentNetwork, State, Step

__all__ = ["NETWORKS", "Constants", "DirectNetwork", "Network", "RecurrentNetwork", "State", "Step", "create_network", "list_networks"]

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
        **settings: what else the network's own signature takes; ``context``, the observed frames, where parameters depend on it (simvp).

    Raises:
        UserError: the name is unknown, or a setting is unknown, missing or impossible.
    """
    context = settings.pop("context", None)
    named = {"hidden": hidden, "kernel_size": kernel_size, "patch_size": patch_size}
    given = {**{key: value for key, value in named.items() if value is not None}, **settings}
    return make_network(name, given, channels=channels, frame_size=frame_size, context=context)


def make_network(
    name: str, settings: Mapping[str, Any], *, channels: int, frame_size: tuple[int, int] | None, context: int | None = None
) -> Network:
    """Create a network from the settings of a config or a predictor file; what the data tell is passed beside them.

    A network is told the size and the context of its frames if its signature asks for ``frame_size`` or ``context``.
    """
    target = extensions.find("networks", name, NETWORKS)
    known, _ = settings_of(target)
    facts: dict[str, Any] = {"channels": channels}
    if frame_size is not None and "frame_size" in known:
        facts["frame_size"] = tuple(frame_size)
    if context is not None and "context" in known:
        facts["context"] = context
    clash = sorted(set(facts) & set(settings))
    if clash:
        raise UserError(f"'network.{clash[0]}' follows from the data and cannot be set")
    network = build(target, {**settings, **facts}, where="network", read_elsewhere=["name", "weights", "mismatch"])
    if not isinstance(network, RecurrentNetwork | DirectNetwork):
        raise UserError(
            f"'{name}' is no network: it must be a RecurrentNetwork or DirectNetwork of stpredict, not {type(network).__name__}"
        )
    return network
