"""The shapes of data that every backend shares."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor

RowMap = Literal["raw", "unit", "centered_unit"]
What = Literal["not finite", "zero", "constant"]
FAULTS: tuple[What, ...] = get_args(What)


class Cross(NamedTuple):
    """Sums over rows for a pair of sides, about their origins; all float64.

    Attributes:
        product: `(d_x, d_y)`, the sum of `x y^T`.
        left: `(d_x,)`, the sum of `|y|^2 x`.
        right: `(d_y,)`, the sum of `|x|^2 y`.
        weight: `(1,)`, the sum of `|x|^2 |y|^2`.
    """

    product: Tensor
    left: Tensor
    right: Tensor
    weight: Tensor


class MappedSums(NamedTuple):
    """What mapped rows `z = map(x) - origin` are summed into.

    Attributes:
        row_map: "raw", "unit" (`x / |x|`) or "centered_unit" (the row's own mean taken off first).
        origins: for every side `(d,)`, float64.
        totals: for every side `(d,)`, float64, the sum of `z`.
        squares: for every side `(1,)`, float64, the sum of `|z|^2`.
        crosses: for every pair of sides.
    """

    row_map: RowMap
    origins: Sequence[Tensor]
    totals: Sequence[Tensor]
    squares: Sequence[Tensor]
    crosses: Sequence[Cross]


class PairedRows(NamedTuple):
    """Rows whose pairs have the similarity `scale * (z_i . z_j) + offsets_i + offsets_j`.

    Attributes:
        rows: `(n, d)`, float64 or float32.
        offsets: `(n,)`, float64.
        scale: of the products.
    """

    rows: Tensor
    offsets: Tensor
    scale: float


Correlation = Literal["pearson", "spearman", "kendall"]


class RowFault(NamedTuple):
    """The first row that cannot be summed: what it is, on which side, and its number.

    A zero row has no direction under "unit", a constant one none under "centered_unit".
    """

    what: What
    side: int
    row: int

    @classmethod
    def of(cls, note: int, sides: int) -> "RowFault | None":
        """Return the fault that a number stands for: -1 for none, least for the first."""
        if note < 0:
            return None
        place, what = divmod(note, len(FAULTS))
        row, side = divmod(place, sides)
        return cls(FAULTS[what], side, row)


class UnusableRowError(ValueError):
    """A row that cannot be summed; `fault` says which and why."""

    def __init__(self, message: str, fault: RowFault) -> None:
        super().__init__(message)
        self.fault = fault


class EdgeProjection(NamedTuple):
    """What K edge probes read the rows of a span by.

    Attributes:
        weight: `(K, d, P)`.
        bias: `(K, P)`.
        attention: `(K, P)`.
    """

    weight: Tensor
    bias: Tensor
    attention: Tensor


class EdgeProbes(NamedTuple):
    """Parameters of K edge probes, or their gradients.

    Attributes:
        projections: one for all S spans of a target, or one for each.
        hidden: `(K, S P, H)`.
        hidden_bias: `(K, H)`, as are `gain` and `shift`, of the normalization.
        gain: see there.
        shift: see there.
        weight: `(K, H, C)`.
        bias: `(K, C)`.
    """

    projections: tuple[EdgeProjection, ...]
    hidden: Tensor
    hidden_bias: Tensor
    gain: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "EdgeProbes":
        """Return the probes whose `tensors` these are."""
        *first, hidden, hidden_bias, gain, shift, weight, bias = tensors
        projections = zip(first[::3], first[1::3], first[2::3], strict=True)
        return cls(
            tuple(EdgeProjection(*own) for own in projections),
            hidden,
            hidden_bias,
            gain,
            shift,
            weight,
            bias,
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All of them: those of each projection, then the others, in order."""
        return [*(t for own in self.projections for t in own), *self[1:]]

    def projection(self, s: int) -> EdgeProjection:
        """Return the projection of a span."""
        return self.projections[min(s, len(self.projections) - 1)]


class SpanRows(NamedTuple):
    """One span of each of B targets, as ranges of rows.

    Attributes:
        x: `(N, d)` rows that all probes read, or `(K, N, d)` with rows for each.
        starts: `(B,)` int64, the first row of each span.
        stops: `(B,)` int64, one past its last row.
    """

    x: Tensor
    starts: Tensor
    stops: Tensor
