import os
import signal
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpredict.data.blocks import each_block, positions_of
from stpredict.data.readers.finding import BadFiles
from stpredict.errors import UserError


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), edges=st.tuples(st.integers(0, 72), st.integers(0, 72)))
def test_a_block_is_cut_where_films_end(lengths, edges):
    every_frame = [(film, position) for film, length in enumerate(lengths) for position in range(length)]
    block = range(min(edges), min(max(edges), len(every_frame)))
    firsts = [0, *accumulate(lengths)][:-1]
    parts = list(positions_of(firsts, block))
    assert [(film, position) for film, positions, _ in parts for position in positions] == every_frame[block.start : block.stop]
    assert [place for _, _, place in parts] == [0, *accumulate(len(positions) for _, positions, _ in parts)][: len(parts)]


def square(number):
    if number == 99:
        raise BadFiles({"a": "'a' is bad"})
    if number == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2, os.getpid()


@pytest.mark.parametrize("workers", [1, 3])
def test_every_block_is_worked_through(workers):
    found = each_block(square, range(3, 20), [1] * 17, workers, "squares", progress=True)
    assert {number: result for number, (result, _) in found.items()} == {number: number**2 for number in range(3, 20)}
    assert (workers == 1) == ({process for _, process in found.values()} == {os.getpid()})
    assert each_block(square, [], [], workers, "nothing", progress=False) == {}
    with pytest.raises(UserError, match="'a' is bad"):
        each_block(square, [5, 99, 6], [1] * 3, workers, "squares", progress=False)


def test_a_process_that_is_killed_is_told():
    with pytest.raises(UserError, match="was killed: if memory ran out, ask for fewer"):
        each_block(square, [5, 66, 6], [1] * 3, 2, "squares", progress=False)
