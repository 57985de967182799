"""Tiles: whole where one is enough, no seams where there are several, and what each sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.networks import RecurrentNetwork, Step, create_network
from stpredict.predictor import Predictor
from stpredict.tiling import TiledPredictor


class Falling(RecurrentNetwork):
    """Says half of what it was told, plus what is known: a network without a neighbourhood."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))

    def initial_state(self, batch: int, height: int, width: int) -> torch.Tensor:
        return torch.zeros(batch)

    def step(self, frame: torch.Tensor | None, state: Any, constants: Any, known: torch.Tensor | None = None) -> Step:
        assert frame is not None
        return Step(frame * self.factor + (0.0 if known is None else known), state)


def predictor(network: RecurrentNetwork, height: int, width: int) -> Predictor:
    spec = FrameSpec(1, height, width, transform=Transform(high=2.0))
    return Predictor(network, spec, 2, 3, network_name="falling", network_settings={})


@settings(deadline=None)
@given(st.integers(3, 40), st.integers(3, 40), st.integers(3, 20), st.data())
def test_without_a_neighbourhood_tiles_are_the_whole(height: int, width: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    whole = predictor(Falling(), height, width)
    observed, known = torch.rand(2, 2, 1, height, width), torch.rand(2, 5, 1, height, width)
    expected = whole.forecast(observed, 3, known=known)
    torch.testing.assert_close(TiledPredictor(whole, tile, overlap).forecast(observed, 3, known=known), expected)


def test_a_tile_that_holds_the_frame_is_the_predictor_itself() -> None:
    torch.manual_seed(0)
    whole = predictor(create_network("convlstm", channels=1, hidden=[4], kernel_size=3, patch_size=2), 12, 20)
    observed = torch.rand(1, 2, 1, 12, 20).numpy()
    assert (TiledPredictor(whole, 20).forecast(observed, 3) == whole.forecast(observed, 3)).all()


def test_far_from_the_edges_of_tiles_a_network_sees_all_it_would_see() -> None:
    torch.manual_seed(0)
    whole = predictor(create_network("convlstm", channels=1, hidden=[4], kernel_size=3, patch_size=1), 16, 48)
    observed = torch.rand(1, 2, 1, 16, 48)
    exact, tiled = whole.forecast(observed, 1), TiledPredictor(whole, 32, 16).forecast(observed, 1)
    torch.testing.assert_close(tiled[..., :12], exact[..., :12])
    torch.testing.assert_close(tiled[..., -12:], exact[..., -12:])
    assert not torch.equal(tiled, exact)


def test_members_have_an_axis() -> None:
    whole = predictor(Falling(), 10, 10)
    observed = torch.rand(2, 2, 1, 10, 10)
    forecast = TiledPredictor(whole, 6).forecast(observed, 3, members=2)
    torch.testing.assert_close(forecast, whole.forecast(observed, 3, members=2))


def test_a_stream_has_no_tiles() -> None:
    with pytest.raises(UserError, match="keeps the state of whole frames"):
        TiledPredictor(predictor(Falling(), 10, 10), 6).start(torch.rand(1, 2, 1, 10, 10))


@pytest.mark.parametrize(("tile", "overlap"), [(1, None), (8, 5), (8, -1)])
def test_impossible_tiles(tile: int, overlap: int | None) -> None:
    with pytest.raises(UserError, match=r"(tile|Tiles) of \d+ pixels"):
        TiledPredictor(predictor(Falling(), 10, 10), tile, overlap)
