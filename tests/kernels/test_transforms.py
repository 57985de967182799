"""The transforms of Winograd's convolutions are exact, and the compiler is given just those."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpredict.kernels.compiled import FORMS
from stpredict.kernels.transforms import Form, Matrix, constants, winograd

SIZES = [(2, 5), (2, 7), (4, 3), (4, 5), (6, 3)]
"""F(m, r) of tiles of 6 and 8."""

fractions = st.fractions(min_value=-100, max_value=100, max_denominator=97)


def product(a: Matrix, b: Matrix) -> Matrix:
    return tuple(tuple(sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in zip(*b, strict=True)) for row in a)


def elementwise(a: Matrix, b: Matrix) -> Matrix:
    return tuple(tuple(x * y for x, y in zip(one, other, strict=True)) for one, other in zip(a, b, strict=True))


def transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def drawn(data: st.DataObject, rows: int, columns: int) -> Matrix:
    row = st.tuples(*[fractions] * columns)
    return data.draw(st.tuples(*[row] * rows))


def correlated(kernel: Matrix, tile: Matrix) -> Matrix:
    rows, columns = len(tile) - len(kernel) + 1, len(tile[0]) - len(kernel[0]) + 1
    return tuple(
        tuple(
            sum((kernel[i][j] * tile[y + i][x + j] for i in range(len(kernel)) for j in range(len(kernel[0]))), Fraction(0))
            for x in range(columns)
        )
        for y in range(rows)
    )


@pytest.mark.parametrize("size", SIZES)
@given(data=st.data())
def test_it_correlates_exactly(size: tuple[int, int], data: st.DataObject) -> None:
    form = winograd(*size)
    kernel, tile = drawn(data, form.taps, 1), drawn(data, form.tile, 1)
    assert product(form.at, elementwise(product(form.g, kernel), product(form.bt, tile))) == correlated(kernel, tile)


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_planes_are_correlated_exactly_by_both_axes(form: Form) -> None:
    kernel = tuple(tuple(Fraction(7 * i - 3 * j + 1, i + j + 1) for j in range(form.taps)) for i in range(form.taps))
    tile = tuple(tuple(Fraction(5 * i * i - j, 2 * j + i + 1) for j in range(form.tile)) for i in range(form.tile))
    weights = product(product(form.g, kernel), transposed(form.g))
    inputs = product(product(form.bt, tile), transposed(form.bt))
    assert product(product(form.at, elementwise(weights, inputs)), transposed(form.at)) == correlated(kernel, tile)


@pytest.mark.parametrize("taps", FORMS)
def test_there_is_a_form_for_each_size_and_frames_are_transformed_without_rounding(taps: int) -> None:
    form = FORMS[taps]
    assert form.taps == taps and form.tile == form.outputs + taps - 1
    shapes = {"at": (form.outputs, form.tile), "g": (form.tile, taps), "bt": (form.tile, form.tile)}
    assert all(numpy.shape(getattr(form, name)) == shape for name, shape in shapes.items())
    for matrix in (form.at, form.bt):
        assert all(Fraction(float(numpy.float32(float(value)))) == value for row in matrix for value in row)


@pytest.mark.parametrize("taps", FORMS)
def test_the_constants_of_c_are_the_transforms(taps: int) -> None:
    form, text = FORMS[taps], constants(FORMS[taps])
    sizes = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", text)}
    assert sizes[f"TILE_{taps}"] == form.tile and sizes[f"OUTPUTS_{taps}"] == form.outputs
    given = {"A": transposed(form.at), "B": transposed(form.bt), "G": form.g}
    wanted = {**given, **{f"{name}T": transposed(matrix) for name, matrix in given.items()}}
    read = dict(re.findall(rf"float (\w+)_{taps}\[\] = \{{(.*?)\}};", text))
    assert {"AT", "BT", "G", "GT"} <= read.keys() <= wanted.keys()
    for name, numbers in read.items():
        assert [float(number) for number in numbers.split(",")] == [float(value) for row in wanted[name] for value in row], name
