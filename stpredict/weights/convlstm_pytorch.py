"""Layer stacks of ConvLSTM_pytorch: ConvLSTM layers of a user's own network, without a readout.

Source: ndrplz/ConvLSTM_pytorch 9f662ba. One convolution over [x | h], gates in the order i f o g; split here into one over x and one
over h.
"""

from __future__ import annotations

from torch import Tensor, nn

from stpredict.cells.convlstm import ConvLSTMCell
from stpredict.cells.gates import Gates
from stpredict.errors import UserError
from stpredict.weights.container import Container
from stpredict.weights.translation import layer_count, need, permute_blocks

_ORDER = (0, 1, 3, 2)
_LAYER = r"cell_list\.(\d+)\.conv\.(?:weight|bias)"


def recognises(container: Container) -> bool:
    """Return whether this is a stack of such layers."""
    return "cell_list.0.conv.weight" in container.tensors


def make_cells(container: Container) -> nn.ModuleList:
    """Return the cells of a stack, the lowest first.

    Raises:
        UserError: a tensor is unknown, missing or of a shape that does not fit.
    """
    tensors = container.tensors
    layers = layer_count(tensors, _LAYER)
    expected = {f"cell_list.{layer}.conv.{kind}" for layer in range(layers) for kind in ("weight", "bias")}
    unknown = sorted(set(tensors) - expected)
    if unknown:
        raise UserError(f"The checkpoint holds tensors that a stack of ConvLSTM_pytorch does not have: {', '.join(unknown[:6])}")
    return nn.ModuleList(
        _cell(need(tensors, f"cell_list.{layer}.conv.weight"), tensors.get(f"cell_list.{layer}.conv.bias")) for layer in range(layers)
    )


def _cell(kernel: Tensor, bias: Tensor | None) -> ConvLSTMCell:
    hidden, rows, columns = kernel.shape[0] // 4, *kernel.shape[2:]
    inputs = kernel.shape[1] - hidden
    if inputs < 1 or kernel.shape[0] % 4 or rows % 2 == 0 or columns % 2 == 0 or (bias is not None and bias.shape != kernel.shape[:1]):
        raise UserError(f"A kernel of shape {tuple(kernel.shape)} is none of a ConvLSTM over [x | h] of odd size")
    cell = ConvLSTMCell(inputs, hidden, Gates((rows, columns), bias=bias is not None))
    ordered = permute_blocks(kernel.float(), _ORDER)
    weights = {"x.0.weight": ordered[:, :inputs], "h.0.weight": ordered[:, inputs:]}
    if bias is not None:
        weights |= {"x.0.bias": permute_blocks(bias.float(), _ORDER), "h.0.bias": bias.new_zeros(bias.shape, dtype=ordered.dtype)}
    cell.load_state_dict(weights)
    return cell.eval()
