"""The sums of mapped rows under one row map: merge them, move the origin, read them.

Owns the algebra of docs/methods.md (Sums) for several sides and pairs of sides. `moments` keeps one
`Sums` for each row map; `similarity` reads means, cross-products and scatter matrices from it.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from bertft import ops
from bertft.ops import Cross, MappedSums, RowMap
from bertft.ops.checks import is_finite

Pair = tuple[str, str]
T = TypeVar("T")


class Sums:
    """Sums over n mapped rows less a fixed origin, for every side and pair of sides.

    Every side is paired with itself too. The origin is the mean of the first rows seen, so that
    float32 products lose nothing to a common offset; merged parts are moved to one origin.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        pairs: Iterable[Pair],
        row_map: RowMap,
        device: torch.device | str = "cpu",
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.n = 0
        self.row_map = row_map
        self.origins = {side: zeros(d) for side, d in widths.items()}
        self.totals = {side: zeros(d) for side, d in widths.items()}
        # Summed apart from the products, whose traces float32 rounds, with the `|x|^2` of weights:
        # measures are small differences of both.
        self.square_totals = {side: zeros(1) for side in widths}
        # A side with itself holds the upper triangle of its product and no `right`; `cross` gives
        # the whole.
        self.crosses = {
            (a, b): Cross(zeros(widths[a], widths[b]), zeros(widths[a]), zeros(widths[b]), zeros(1))
            for a, b in [*((side, side) for side in widths), *pairs]
        }
        # Quantities that are computed once, and forgotten when rows are added: those of a single
        # side are shared with the pairs that are taken out.
        self._known: dict[Hashable, Any] = {}
        self._known_of: dict[str, dict[Hashable, Any]] = {side: {} for side in widths}

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the sides."""
        return tuple(self.totals)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return next(iter(self.totals.values())).device

    def inputs(self) -> MappedSums:
        """Return what rows are summed into, sides and pairs in order."""
        return MappedSums(
            self.row_map,
            list(self.origins.values()),
            list(self.totals.values()),
            list(self.square_totals.values()),
            list(self.crosses.values()),
        )

    def counted(self, rows: int) -> None:
        """Note that rows have been added to the sums."""
        self.n += rows
        self.forget()

    def forget(self) -> None:
        """Let go of what has been computed; pairs that were taken out keep theirs."""
        self._known = {}
        self._known_of = {side: {} for side in self.sides}

    def combined(self, other: "Sums", sign: int = 1) -> "Sums":
        """Return the sums of both sets of rows, or of these without the others if `sign` is -1.

        They are about the origins of this one, unless it is empty.
        """
        if self.n == 0 and other.n > 0:
            return other.copy()
        combined = self.copy()
        if other.n == 0:
            return combined
        combined.forget()
        moved = other.about(self.origins)
        for side, total in combined.totals.items():
            total.add_(moved.totals[side], alpha=sign)
            combined.square_totals[side].add_(moved.square_totals[side], alpha=sign)
        for pair, cross in combined.crosses.items():
            for sum_, addend in zip(cross, moved.crosses[pair], strict=True):
                sum_.add_(addend, alpha=sign)
        combined.n += sign * other.n
        return combined

    def about(self, origins: Mapping[str, Tensor]) -> "Sums":
        """Return these sums about other origins: themselves where they are the same, or a copy."""
        if all(torch.equal(origins[side], self.origins[side]) for side in self.sides):
            return self
        moved = self.copy()
        moved.forget()
        moves = {side: self._move(side, origins[side] - self.origins[side]) for side in self.sides}
        for side, move in moves.items():
            moved.origins[side] = origins[side].clone()
            moved.totals[side] = move.total - self.n * move.shift
            moved.square_totals[side] = _moved_squares(self.n, move)
        for a, b in self.crosses:
            cross = _moved(self.cross(a, b), self.n, moves[a], moves[b])
            if a == b:
                cross = cross._replace(product=cross.product.triu(), right=0 * cross.right)
            moved.crosses[a, b] = cross
        return moved

    def is_finite(self) -> bool:
        """Return whether all sums are."""

        def of_side(side: str) -> bool:
            totals = self.origins[side], self.totals[side], self.square_totals[side]
            return self.memo_of(
                side, "finite", lambda: all(map(is_finite, (*totals, *self.crosses[side, side])))
            )

        crosses = [cross for (a, b), cross in self.crosses.items() if a != b]
        return self.memo(
            "finite",
            lambda: all(map(of_side, self.sides)) and all(is_finite(t) for c in crosses for t in c),
        )

    def mean(self, side: str) -> Tensor:
        """Return the mean of the mapped rows, `(d,)`."""
        return self.origins[side] + self.totals[side] / self.n

    def cross(self, a: str, b: str) -> Cross:
        """Return the sums of a pair about the origins, in this order and with both triangles."""
        if a == b:
            return self.memo_of(a, "own", lambda: self._own(a))
        if (a, b) in self.crosses:
            return self.crosses[a, b]
        product, left, right, weight = self.crosses[b, a]
        return Cross(product.T, right, left, weight)

    def _own(self, side: str) -> Cross:
        product, left, _, weight = self.crosses[side, side]
        return Cross(product.triu() + product.triu(1).T, left, left, weight)

    def scatter(self, a: str, b: str) -> Tensor:
        """Return the centered cross-products `C = sum (x - m_x)(y - m_y)^T`, `(d_a, d_b)`."""
        if a == b:
            return self.memo_of(a, "scatter", lambda: self._scatter(a, a))
        return self.memo(("scatter", a, b), lambda: self._scatter(a, b))

    def _scatter(self, a: str, b: str) -> Tensor:
        x, y = self._to_mean(a), self._to_mean(b)
        return _moved_product(self.cross(a, b).product, self.n, x, y)

    def weight(self, a: str, b: str) -> float:
        """Return the sum of `|x|^2 |y|^2` of a pair about the means."""

        def compute() -> float:
            x, y = self._to_mean(a), self._to_mean(b)
            return float(_moved_weight(self.cross(a, b), self.n, x, y))

        return self.memo_of(a, "weight", compute) if a == b else compute()

    def weighted(self, a: str, b: str) -> Tensor:
        """Return the sum of `|y|^2 x` of a pair about the means, `(d_a,)`."""
        product, left, _, _ = self.cross(a, b)
        return _moved_left(product, left, self.n, self._to_mean(a), self._to_mean(b))

    def squares(self, side: str) -> float:
        """Return the sum of `|x|^2` about the mean."""
        return float(_moved_squares(self.n, self._to_mean(side)))

    def _to_mean(self, side: str) -> "_Move":
        return self._move(side, self.totals[side] / self.n)

    def _move(self, side: str, shift: Tensor) -> "_Move":
        return _Move(shift, self.totals[side], self.square_totals[side])

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return a quantity that is computed once and forgotten when rows are added."""
        return _memo(self._known, key, compute)

    def memo_of(self, side: str, key: Hashable, compute: Callable[[], T]) -> T:
        """Return a quantity of a single side, computed once for all pairs that it is in."""
        return _memo(self._known_of[side], key, compute)

    @property
    def known(self) -> dict[Hashable, Any]:
        """What has been computed of the sides together."""
        return self._known

    def known_of(self, side: str) -> dict[Hashable, Any]:
        """Return what has been computed of a single side."""
        return self._known_of[side]

    def pair(self, a: str, b: str) -> "Sums":
        """Return the sums of two sides, the same tensors: to read, or to copy."""
        part = Sums({}, [], self.row_map)
        part.n = self.n
        for side in (a, b):
            part.origins[side] = self.origins[side]
            part.totals[side] = self.totals[side]
            part.square_totals[side] = self.square_totals[side]
            part._known_of[side] = self._known_of[side]
        for pair in ((a, a), (b, b), (a, b)):
            part.crosses[pair] = self.crosses.get(pair) or self.cross(*pair)
        return part

    def copy(self) -> "Sums":
        """Return a copy that shares no sums, but what is known of each side."""

        def copied(tensor: Tensor) -> Tensor:
            return tensor.clone(memory_format=torch.contiguous_format)

        copy = Sums({}, [], self.row_map)
        copy.n = self.n
        for side in self.sides:
            copy.origins[side] = copied(self.origins[side])
            copy.totals[side] = copied(self.totals[side])
            copy.square_totals[side] = copied(self.square_totals[side])
            copy._known_of[side] = self._known_of[side]
        for pair, cross in self.crosses.items():
            copy.crosses[pair] = Cross(*map(copied, cross))
        return copy

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every sum with a key that numbers sides and pairs."""
        for i, side in enumerate(self.sides):
            yield f"origin/{i}", self.origins[side]
            yield f"total/{i}", self.totals[side]
            yield f"squares/{i}", self.square_totals[side]
        for i, cross in enumerate(self.crosses.values()):
            for name, tensor in cross._asdict().items():
                yield f"{name}/{i}", tensor


def place_origins(parts: Sequence[Sums], rows: Sequence[Tensor], **how: Any) -> None:
    """Put the origins of sums of no rows, one for each row map, at the mean of the first rows.

    It is rounded to what the products run in. `how` goes to `bertft.ops.accumulate`.
    """

    def empty(sums: Sums) -> MappedSums:
        zeros = [torch.zeros_like(origin) for origin in sums.origins.values()]
        squares = [zero.new_zeros(1) for zero in zeros]
        return MappedSums(sums.row_map, zeros, [zero.clone() for zero in zeros], squares, [])

    firsts = [empty(sums) for sums in parts]
    norms = torch.zeros(len(rows), dtype=torch.float64, device=parts[0].device)
    ops.accumulate(rows, [], firsts, norms, norms[:0], **how)
    for sums, first in zip(parts, firsts, strict=True):
        for side, total, x in zip(sums.sides, first.totals, rows, strict=True):
            mean = total / len(x)
            sums.origins[side] = mean if x.dtype == torch.float64 else mean.float().double()


def _memo(known: dict[Hashable, Any], key: Hashable, compute: Callable[[], T]) -> T:
    if key not in known:
        known[key] = compute()
    return cast(T, known[key])


class _Move(NamedTuple):
    """A side whose origin moves: by how much, its total, and its sum of squared norms."""

    shift: Tensor
    total: Tensor
    squares: Tensor


def _moved_squares(n: int, x: _Move) -> Tensor:
    return x.squares - 2 * x.shift @ x.total + n * (x.shift @ x.shift)


def _moved_product(product: Tensor, n: int, x: _Move, y: _Move) -> Tensor:
    """`P - dx sy^T - sx dy^T + n dx dy^T`."""
    moved = product.addr(x.shift, y.total - n * y.shift, alpha=-1)
    return moved.addr_(x.total, y.shift, alpha=-1)


def _moved_weight(cross: Cross, n: int, x: _Move, y: _Move) -> Tensor:
    (dx, sx, kx), (dy, sy, ky) = x, y
    square_x, square_y = dx @ dx, dy @ dy
    return (
        cross.weight
        - 2 * (dy @ cross.right + dx @ cross.left - 2 * (dx @ cross.product @ dy))
        + square_y * (kx - 2 * dx @ sx)
        + square_x * (ky - 2 * dy @ sy)
        + n * square_x * square_y
    )


def _moved_left(product: Tensor, left: Tensor, n: int, x: _Move, y: _Move) -> Tensor:
    """The sum of `|y|^2 x`; with the sides exchanged, that of `|x|^2 y`."""
    dx, dy = x.shift, y.shift
    return left - 2 * product @ dy + (dy @ dy) * x.total - _moved_squares(n, y) * dx


def _moved(cross: Cross, n: int, x: _Move, y: _Move) -> Cross:
    product, left, right, _ = cross
    return Cross(
        _moved_product(product, n, x, y),
        _moved_left(product, left, n, x, y),
        _moved_left(product.T, right, n, y, x),
        _moved_weight(cross, n, x, y),
    )
