"""The sums of mapped rows under one row map: merge them, move the origin, read them.

Owns the algebra of docs/methods.md (Sums) for several sides and pairs of sides. `moments` keeps one
`Sums` for each row map; `similarity` reads means, cross-products and scatter matrices from it.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from bertft.ops import Cross, MappedSums, RowMap

Pair = tuple[str, str]
T = TypeVar("T")


class Sums:
    """Sums over n mapped rows less a fixed origin, for every side and pair of sides.

    Every side is paired with itself too. The origin is the mean of the first rows seen, so that
    float32 products lose nothing to a common offset; merged parts are moved to one origin.
    """

    def __init__(self, widths: Mapping[str, int], pairs: Iterable[Pair], row_map: RowMap) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        self.n = 0
        self.row_map = row_map
        self.origins = {side: zeros(d) for side, d in widths.items()}
        self.totals = {side: zeros(d) for side, d in widths.items()}
        # A side with itself holds the upper triangle of its product and no `right`; `cross` gives
        # the whole.
        self.crosses = {
            (a, b): Cross(zeros(widths[a], widths[b]), zeros(widths[a]), zeros(widths[b]), zeros(1))
            for a, b in [*((side, side) for side in widths), *pairs]
        }
        # Quantities that are computed once, and forgotten when rows are added.
        self.known: dict[Hashable, Any] = {}

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the sides."""
        return tuple(self.totals)

    def inputs(self) -> MappedSums:
        """Return what rows are summed into, sides and pairs in order."""
        origins, totals = list(self.origins.values()), list(self.totals.values())
        return MappedSums(self.row_map, origins, totals, list(self.crosses.values()))

    def counted(self, rows: int) -> None:
        """Note that rows have been added to the sums."""
        self.n += rows
        self.known.clear()

    def merged(self, other: "Sums") -> "Sums":
        """Return the sums of both sets of rows, about this one's origins."""
        merged = self.copy()
        if other.n == 0:
            return merged
        if self.n == 0:
            return other.copy()
        moved = other.about(self.origins)
        for side, total in merged.totals.items():
            total += moved.totals[side]
        for pair, cross in merged.crosses.items():
            for sum_, addend in zip(cross, moved.crosses[pair], strict=True):
                sum_ += addend
        merged.n += other.n
        return merged

    def about(self, origins: Mapping[str, Tensor]) -> "Sums":
        """Return a copy about other origins."""
        moved = self.copy()
        shifts = {side: origins[side] - self.origins[side] for side in self.sides}
        squares = {side: self.crosses[side, side].product.trace() for side in self.sides}
        for side, shift in shifts.items():
            moved.origins[side] = origins[side].clone()
            moved.totals[side] = self.totals[side] - self.n * shift
        for a, b in self.crosses:
            x = (shifts[a], self.totals[a], squares[a])
            y = (shifts[b], self.totals[b], squares[b])
            cross = _move(self.cross(a, b), self.n, x, y)
            if a == b:
                cross = cross._replace(product=cross.product.triu(), right=0 * cross.right)
            moved.crosses[a, b] = cross
        return moved

    def about_zero(self) -> "Sums":
        """Return a copy about the origin 0."""
        zeros = {side: torch.zeros_like(total) for side, total in self.totals.items()}
        return self.memo("about zero", lambda: self.about(zeros))

    def about_means(self) -> "Sums":
        """Return a copy about the means, where all totals vanish."""
        return self.memo(
            "about means", lambda: self.about({side: self.mean(side) for side in self.sides})
        )

    def mean(self, side: str) -> Tensor:
        """Return the mean of the mapped rows, `(d,)`."""
        return self.origins[side] + self.totals[side] / self.n

    def cross(self, a: str, b: str) -> Cross:
        """Return the sums of a pair about the origins, in this order and with both triangles."""
        if a == b:
            product, left, _, weight = self.crosses[a, a]
            return Cross(product.triu() + product.triu(1).T, left, left, weight)
        if (a, b) in self.crosses:
            return self.crosses[a, b]
        product, left, right, weight = self.crosses[b, a]
        return Cross(product.T, right, left, weight)

    def scatter(self, a: str, b: str) -> Tensor:
        """Return the centered cross-products `C = sum (x - m_x)(y - m_y)^T`, `(d_a, d_b)`."""

        def compute() -> Tensor:
            outer = torch.outer(self.totals[a], self.totals[b] / self.n)
            return self.cross(a, b).product - outer

        return self.memo(("scatter", a, b), compute)

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return a quantity that is computed once and forgotten when rows are added."""
        if key not in self.known:
            self.known[key] = compute()
        return cast(T, self.known[key])

    def pair(self, a: str, b: str) -> "Sums":
        """Return a copy of the sums of two sides."""
        part = Sums({side: len(self.totals[side]) for side in (a, b)}, [], self.row_map)
        part.n = self.n
        for side in (a, b):
            part.origins[side] = self.origins[side].clone()
            part.totals[side] = self.totals[side].clone()
        for pair in ((a, a), (b, b), (a, b)):
            part.crosses[pair] = Cross(*(sum_.clone() for sum_ in self.cross(*pair)))
        return part

    def copy(self) -> "Sums":
        """Return a copy that shares nothing."""
        widths = {side: len(total) for side, total in self.totals.items()}
        copy = Sums(widths, [(a, b) for a, b in self.crosses if a != b], self.row_map)
        for (_, tensor), (_, source) in zip(copy.tensors(), self.tensors(), strict=True):
            tensor.copy_(source)
        copy.n = self.n
        return copy

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every sum with a key that numbers sides and pairs."""
        for i, side in enumerate(self.sides):
            yield f"origin/{i}", self.origins[side]
            yield f"total/{i}", self.totals[side]
        for i, cross in enumerate(self.crosses.values()):
            for name, tensor in cross._asdict().items():
                yield f"{name}/{i}", tensor


def _move(
    cross: Cross,
    n: int,
    x: tuple[Tensor, Tensor, Tensor],
    y: tuple[Tensor, Tensor, Tensor],
) -> Cross:
    """Move the origins of a pair; `x` and `y` are shift, total and sum of squared norms."""
    (dx, sx, kx), (dy, sy, ky) = x, y
    product, left, right, weight = cross
    square_x, square_y = dx @ dx, dy @ dy
    kx_moved = kx - 2 * dx @ sx + n * square_x
    ky_moved = ky - 2 * dy @ sy + n * square_y
    return Cross(
        product - torch.outer(dx, sy) - torch.outer(sx, dy) + n * torch.outer(dx, dy),
        left - 2 * product @ dy + square_y * sx - ky_moved * dx,
        right - 2 * dx @ product + square_x * sy - kx_moved * dy,
        weight
        - 2 * (dy @ right + dx @ left - 2 * (dx @ product @ dy))
        + square_y * (kx - 2 * dx @ sx)
        + square_x * (ky - 2 * dy @ sy)
        + n * square_x * square_y,
    )
