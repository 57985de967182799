"""The transforms of Winograd's convolutions: exact, from the points at which polynomials are multiplied.

Source: Toom 1963, Cook 1966, in the form of Lavin and Gray (2016, arXiv 1509.09308) and Blahut, Fast Algorithms for Signal Processing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import log2, sqrt

Matrix = tuple[tuple[Fraction, ...], ...]

_POINTS = {5: ("0", "1", "-1", "2", "-1/2"), 7: ("0", "1", "-1", "2", "-2", "1/2", "-1/2")}
"""The points, besides infinity, that give the smallest errors among small fractions."""


@dataclass(frozen=True)
class Form:
    """F(m, r): m outputs of a filter of r taps by t = m + r - 1 multiplications, ``y = AT [(G g) * (BT d)]``.

    Attributes:
        outputs: m.
        taps: r.
        at: ``(m, t)``.
        g: ``(t, r)``.
        bt: ``(t, t)``.
    """

    outputs: int
    taps: int
    at: Matrix
    g: Matrix
    bt: Matrix

    @property
    def tile(self) -> int:
        """Return t."""
        return self.outputs + self.taps - 1


def winograd(outputs: int, taps: int) -> Form:
    """Return F(m, r) with exact transforms, scaled by powers of two so that rounding errors stay small."""
    tile = outputs + taps - 1
    points = tuple(Fraction(point) for point in _POINTS[tile - 1])
    at, g = _transposed(_powers(points, outputs)), _powers(points, taps)
    bt = _transposed(_inverse(_powers(points, tile)))
    # What divides a row of BT is left to G, which is used once where BT is used often: BT then is free of rounding.
    divisors = [next(value for value in reversed(row) if value) for row in bt]
    bt = tuple(_times(row, 1 / divisor) for row, divisor in zip(bt, divisors, strict=True))
    g = tuple(_times(row, divisor) for row, divisor in zip(g, divisors, strict=True))
    columns = _transposed(at)
    scales = [_balance(_norm(columns[k]), _norm(g[k]), _norm(bt[k])) for k in range(tile)]
    at = _transposed(tuple(_times(row, a) for row, (a, _, _) in zip(columns, scales, strict=True)))
    g = tuple(_times(row, b) for row, (_, b, _) in zip(g, scales, strict=True))
    bt = tuple(_times(row, c) for row, (_, _, c) in zip(bt, scales, strict=True))
    return Form(outputs, taps, at, g, bt)


def constants(form: Form) -> str:
    """Return a form as constants of C: ``TILE_r``, ``OUTPUTS_r``, ``BT_r``, ``AT_r``, ``G_r``; transposed, ``B_r``, ``A_r``, ``GT_r``."""
    matrices = {"BT": form.bt, "AT": form.at, "G": form.g}
    matrices |= {"B": _transposed(form.bt), "A": _transposed(form.at), "GT": _transposed(form.g)}
    lines = [f"enum {{ TILE_{form.taps} = {form.tile}, OUTPUTS_{form.taps} = {form.outputs} }};\n"]
    for name, matrix in matrices.items():
        numbers = ", ".join(repr(float(number)) for row in matrix for number in row)
        lines.append(f"static const float {name}_{form.taps}[] = {{{numbers}}};\n")
    return "".join(lines)


def _powers(points: tuple[Fraction, ...], count: int) -> Matrix:
    """Return the powers of each point, and the highest alone for the point at infinity."""
    finite = tuple(tuple(point**power for power in range(count)) for point in points)
    return (*finite, tuple(Fraction(int(power == count - 1)) for power in range(count)))


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _inverse(matrix: Matrix) -> Matrix:
    """Return the inverse, by Gauss and Jordan."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(k for k in range(i, size) if rows[k][i] != 0)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(size):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return tuple(tuple(row[size:]) for row in rows)


def _norm(row: tuple[Fraction, ...]) -> float:
    return sqrt(sum(float(value) ** 2 for value in row))


def _balance(a: float, b: float, c: float) -> tuple[Fraction, Fraction, Fraction]:
    """Return powers of two whose product is 1 and that make three norms about equal."""
    mean = (a * b * c) ** (1 / 3)
    first, second = Fraction(2) ** round(log2(mean / a)), Fraction(2) ** round(log2(mean / b))
    return first, second, 1 / (first * second)


def _times(row: tuple[Fraction, ...], factor: Fraction) -> tuple[Fraction, ...]:
    return tuple(value * factor for value in row)
