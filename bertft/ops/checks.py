"""What every operation asks of its arguments, in the house grammar."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from bertft.ops.types import Cross, MappedSums, RowMap

ROW_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TRAINED_DTYPES = (torch.float64, torch.float32)


class Call(NamedTuple):
    """The name of the op that is running, for its error texts."""

    name: str

    def fail(self, text: str, kind: type[Exception] = ValueError) -> Exception:
        """Return the error with the operation's name before its text."""
        return kind(f"[{self.name}] {text}")

    def rows(self, x: Tensor, name: str, *, or_several: bool = False) -> None:
        """Refuse what is no floating-point matrix, or no array of them."""
        if (
            x.ndim not in ((2, 3) if or_several else (2,))
            or x.dtype not in ROW_DTYPES
            or x.layout != torch.strided
        ):
            raise self.fail(
                f"{name} must be a floating-point (n, d) tensor, got {x.dtype} of shape "
                f"{tuple(x.shape)} and layout {x.layout}; reshape or convert it.",
                TypeError,
            )
        if x.is_neg():
            raise self.fail(
                f"{name} must hold its values, got a view that negates them; pass .resolve_neg()."
            )

    def matrix(self, x: Tensor, name: str) -> None:
        """Refuse what has other than two axes."""
        if x.ndim != 2:
            raise self.fail(
                f"{name} must be a matrix, got a tensor of shape {tuple(x.shape)}; reshape it."
            )

    def counts(self, wanted: int, **lists: Sequence[Any] | None) -> None:
        """Refuse lists of another length; None stands for one that is not wanted."""
        for name, given in lists.items():
            if given is not None and len(given) != wanted:
                raise self.fail(
                    f"{name} must have {wanted} entries, got {len(given)}; pass one for each."
                )

    def both(self, x: object, y: object, *names: str) -> None:
        """Refuse one of two that are given both or neither."""
        if (x is None) != (y is None):
            raise self.fail(
                f"{' and '.join(names)} must be given both or neither, got one; allocate both."
            )

    def output(self, x: Tensor, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """Refuse a tensor of another dtype, shape or layout."""
        if x.dtype != dtype or x.shape != shape or not x.is_contiguous():
            raise self.fail(
                f"{name} must be a contiguous {dtype} tensor of shape {shape}, got {x.dtype} of "
                f"shape {tuple(x.shape)} and strides {x.stride()}; allocate it so."
            )


def is_finite(x: Tensor) -> bool:
    """Return whether all values are finite, in one pass that leaves nothing behind."""
    if not x.numel():
        return True
    low, high = x.aminmax()  # NaN if any value is
    return bool(low.isfinite() & high.isfinite())


def require_finite(call: Call, matrices: Sequence[Tensor]) -> None:
    """Refuse matrices with values that are not finite."""
    for i, matrix in enumerate(matrices):
        if not is_finite(matrix):
            raise call.fail(
                f"matrices[{i}] must be finite, got NaN or infinity; check the sums it is from.",
                torch.linalg.LinAlgError,
            )


def require_solved(call: Call, failed: int) -> None:
    """Refuse a batch of which one matrix, by its number, has failed."""
    if failed >= 0:
        raise call.fail(
            f"matrices[{failed}] must have a spectrum that LAPACK finds, got an iteration that "
            "does not converge; likely cause: values of extremely different sizes, so scale them.",
            torch.linalg.LinAlgError,
        )


def check_rows(call: Call, rows: Sequence[Tensor]) -> None:
    """Refuse rows that do not go together."""
    for a, x in enumerate(rows):
        call.rows(x, f"rows[{a}]")
    if len({len(x) for x in rows}) > 1:
        raise call.fail(
            f"rows must have the same number on every side, got {[len(x) for x in rows]}; "
            "pass the same positions."
        )
    if len({x.dtype == torch.float64 for x in rows}) > 1:
        raise call.fail(
            f"rows must be float64 on every side or on none, got {[str(x.dtype) for x in rows]}; "
            "convert one.",
            TypeError,
        )


def check_pairs(call: Call, pairs: Sequence[tuple[int, int]], sides: int) -> None:
    """Refuse pairs of sides that there are not."""
    for pair in pairs:
        if not all(0 <= side < sides for side in pair):
            raise call.fail(f"pairs must be of {sides} sides, got {pair}; number them from 0.")


def check_sums(
    call: Call, rows: Sequence[Tensor], pairs: Sequence[tuple[int, int]], sums: MappedSums
) -> None:
    """Refuse sums that do not fit the rows and pairs."""
    if sums.row_map not in get_args(RowMap):
        raise call.fail(
            f"row_map must be one of {get_args(RowMap)}, got {sums.row_map!r}; pass one."
        )
    call.counts(len(rows), origins=sums.origins, totals=sums.totals, squares=sums.squares)
    call.counts(len(pairs), crosses=sums.crosses)
    for a, x in enumerate(rows):
        call.output(sums.origins[a], f"origins[{a}]", torch.float64, (x.shape[1],))
        call.output(sums.totals[a], f"totals[{a}]", torch.float64, (x.shape[1],))
        call.output(sums.squares[a], f"squares[{a}]", torch.float64, (1,))
    for p, ((a, b), cross) in enumerate(zip(pairs, sums.crosses, strict=True)):
        dx, dy = rows[a].shape[1], rows[b].shape[1]
        shapes = ((dx, dy), (dx,), (dy,), (1,))
        for name, sum_, shape in zip(Cross._fields, cross, shapes, strict=True):
            call.output(sum_, f"crosses[{p}].{name}", torch.float64, shape)


def check_factors(call: Call, a: Tensor, b: Tensor, out: Tensor) -> None:
    """Refuse matrices that have no product, or an `out` that cannot hold it."""
    for name, x in (("a", a), ("b", b), ("out", out)):
        call.rows(x, name, or_several=True)
    dtypes = [x.dtype for x in (a, b, out)]
    if len(set(dtypes)) > 1 or dtypes[0] not in (torch.float32, torch.float64):
        raise call.fail(
            f"a, b and out must be float32 or float64 alike, got {[str(d) for d in dtypes]}; "
            "convert them.",
            TypeError,
        )
    (*many, m, k), n = a.shape, b.shape[-1]
    if b.shape != (*many, k, n) or out.shape != (*many, m, n):
        raise call.fail(
            f"shapes must be (m, k), (k, n) and (m, n), after as many axes, got {tuple(a.shape)}, "
            f"{tuple(b.shape)} and {tuple(out.shape)}; transpose or allocate one."
        )
    if (n > 1 and out.stride(-1) != 1) or (m > 1 and out.stride(-2) < n):
        raise call.fail(
            f"out must have contiguous rows that do not overlap, got strides {out.stride()}; "
            "allocate it so."
        )


def check_logits(call: Call, logits: Tensor, offsets: Tensor, losses: Tensor) -> int:
    """Return how many probes the rows of logits belong to; refuse offsets that do not part them."""
    call.matrix(logits, "logits")
    call.output(logits, "logits", torch.float32, tuple(logits.shape))
    call.output(offsets, "offsets", torch.int64, (offsets.numel(),))
    places, rows = offsets.tolist(), len(logits)
    rises = all(a < b for a, b in pairwise(places))
    if not places or places[0] != 0 or places[-1] != rows or not rises:
        raise call.fail(
            f"offsets must rise from 0 to the {rows} rows of logits, got {places}; give every "
            "probe its rows."
        )
    call.output(losses, "losses", torch.float64, (len(places) - 1,))
    return len(places) - 1


def check_linear(call: Call, x: Tensor, weights: Tensor, losses: Tensor) -> None:
    """Refuse rows that linear probes cannot read, or that are not as many for each of them."""
    call.rows(x, "x")
    call.rows(weights, "weights")
    call.output(losses, "losses", torch.float64, (losses.numel(),))
    rows, d = weights.shape
    if x.dtype != torch.float32 or x.shape[1] != d or (d > 1 and x.stride(1) != 1):
        raise call.fail(
            f"x must be float32 with contiguous rows of {d} columns, got {x.dtype} of shape "
            f"{tuple(x.shape)} and strides {x.stride()}; pass a contiguous copy."
        )
    if not len(losses) or not rows or rows % len(losses):
        raise call.fail(
            f"weights must have as many rows for each of the {len(losses)} probes, got {rows}; "
            "give losses an entry for each probe."
        )


def check_sentences(call: Call, projected: Tensor, offsets: Tensor, losses: Tensor) -> Tensor:
    """Return the words of each sentence; refuse rows that probes and sentences do not share."""
    call.matrix(projected, "projected")
    call.output(offsets, "offsets", torch.int64, (offsets.numel(),))
    call.output(losses, "losses", torch.float64, (losses.numel(),))
    rows, columns = projected.shape
    apart = rows < 2 or projected.stride(0) >= columns
    if projected.dtype not in TRAINED_DTYPES or projected.stride(1) != 1 or not apart:
        raise call.fail(
            f"projected must be float32 or float64 with contiguous rows that do not overlap, got "
            f"{projected.dtype} with strides {projected.stride()}; allocate it so."
        )
    if not len(losses) or not columns or columns % len(losses):
        raise call.fail(
            f"projected must have as many columns for each of the {len(losses)} probes, got "
            f"{columns}; give losses an entry for each probe."
        )
    lengths = offsets.diff()
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != rows or not (lengths > 0).all():
        raise call.fail(
            f"offsets must rise from 0 to the {rows} rows of projected, got {offsets.tolist()}; "
            "give every sentence its rows."
        )
    return lengths


def check_spans(call: Call, x: Tensor, weight: Tensor, starts: Tensor, stops: Tensor) -> None:
    """Refuse rows of probes, their weights and spans that do not go together."""
    if x.ndim != 3 or x.dtype not in (torch.float32, torch.float64):
        raise call.fail(
            f"x must be a float32 or float64 (N, K, H) tensor, got {x.dtype} of shape "
            f"{tuple(x.shape)}; reshape or convert it."
        )
    call.output(x, "x", x.dtype, tuple(x.shape))
    call.output(weight, "weight", x.dtype, tuple(x.shape[1:]))
    for name, tensor in (("starts", starts), ("stops", stops)):
        call.output(tensor, name, torch.int64, (len(starts),))


def require_spans(call: Call, rows: int, starts: Tensor, stops: Tensor) -> None:
    """Refuse the first span that is empty or leaves the rows."""
    invalid = (starts < 0) | (starts >= stops) | (stops > rows)
    if invalid.any():
        at = int(invalid.nonzero()[0])
        raise call.fail(
            f"spans must be non-empty and inside x of {rows} rows, got [{int(starts[at])}, "
            f"{int(stops[at])}) at {at}; drop it."
        )


def check_hidden(
    call: Call,
    name: str,
    units: Tensor,
    bias: Tensor,
    gain: Tensor,
    shift: Tensor,
    kept: Tensor | None,
) -> list[Tensor]:
    """Return the tensors of hidden units and their layer; refuse what does not go together."""
    if units.ndim != 3:
        raise call.fail(f"{name} must be (B, K, H), got shape {tuple(units.shape)}; reshape it.")
    shape = tuple(units.shape)
    call.output(units, name, torch.float32, shape)
    for own, tensor in (("bias", bias), ("gain", gain), ("shift", shift)):
        call.output(tensor, own, torch.float32, shape[1:])
    if kept is None:
        return [units, bias, gain, shift]
    call.output(kept, "kept", torch.uint8, shape)
    return [units, bias, gain, shift, kept]


def require_classes(call: Call, targets: Tensor, sizes: Tensor) -> None:
    """Refuse the first target whose class its probe does not have; `(K, n)` for K sizes."""
    unknown = (targets < -1) | (targets >= sizes[:, None])
    if unknown.any():
        probe, target = unknown.nonzero()[0].tolist()
        raise call.fail(
            f"targets must be -1 or below the {int(sizes[probe])} labels of their probe, got "
            f"{int(targets[probe, target])} for target {target} of probe {probe}; check the labels."
        )


def require_labels(call: Call, targets: Tensor, offsets: Tensor) -> None:
    """Refuse the first label that is not 0, 1 or 255."""
    unknown = (targets > 1) & (targets < 255)
    if unknown.any():
        row, target = unknown.nonzero()[0].tolist()
        probe = int((offsets <= row).sum()) - 1
        raise call.fail(
            f"targets must be 0, 1 or 255 for none, got {int(targets[row, target])} for target "
            f"{target} of probe {probe}; check the labels."
        )


def check_step(
    call: Call, step: int, betas: tuple[float, float], epsilon: float, clip: float | None
) -> None:
    """Refuse what no step of Adam can be taken with."""
    if step < 1:
        raise call.fail(f"step must be at least 1, got {step}; count from 1.")
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise call.fail(f"betas must be in [0, 1), got {betas}; pass such as (0.9, 0.999).")
    if not epsilon > 0.0:
        raise call.fail(f"epsilon must be positive, got {epsilon}; pass such as 1e-8.")
    if clip is not None and not clip > 0.0:
        raise call.fail(f"clip must be positive, got {clip}; pass None for no bound.")
