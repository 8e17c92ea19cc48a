"""Cross moments: rows added to the sums of their sides and of pairs of sides."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft.ops.triton.launching import on_device_of, type_of_products
from bertft.ops.triton.mapped_rows import MappedRows, distances_of, measure
from bertft.ops.triton.products import add_products, tiles_of
from bertft.ops.triton.tilings import PART_ROWS, tiling_of, wanted_parts
from bertft.ops.triton.weighing import weigh
from bertft.ops.types import MappedSums

Pairs = Sequence[tuple[int, int]]


def accumulate(
    rows: Sequence[Tensor],
    pairs: Pairs,
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
) -> Tensor:
    """See `bertft.ops.accumulate`; returns the note of a fault without waiting for it.

    Rows with a fault are not added, which the GPU decides by itself.
    """
    if not len(rows[0]):
        return torch.full((), -1, device=rows[0].device)
    with on_device_of(rows[0]):
        measured = measure(rows, maps)
        sums, added = [norms], [measured.norms.sum(dim=1)]
        for p, (a, b) in enumerate(pairs):
            if a != b and rows[a].shape == rows[b].shape:
                sums.append(distances[p])
                added.append(distances_of(rows[a], rows[b]).sum())
        _add_small(sums, added, measured.note)
        step = _rows_at_once(measured.sides, pairs, len(maps))
        for start in range(0, len(rows[0]), step):
            parts = [side.part(start, start + step) for side in measured.sides]
            _add(parts, pairs, maps, measured.note)
    return measured.note


def _add_small(sums: Sequence[Tensor], added: Sequence[Tensor], note: Tensor) -> None:
    """Add to many small sums by one launch, or nothing where a fault is noted."""
    flat = torch.cat([x.reshape(-1) for x in added])
    kept = torch.where(note < 0, flat, 0.0).split([x.numel() for x in added])
    torch._foreach_add_(list(sums), [x.view_as(sum_) for x, sum_ in zip(kept, sums, strict=True)])


def _rows_at_once(sides: Sequence[MappedRows], pairs: Pairs, maps: int) -> int:
    """As many parts as keep a GPU busy, and no more, for they are held in its memory."""
    tiles = [tiles_of(sides[a], sides[b], tiling_of(sides[b].rows)) for a, b in pairs]
    return PART_ROWS * wanted_parts(maps * max(tiles, default=1))


def _add(
    sides: Sequence[MappedRows], pairs: Pairs, maps: Sequence[MappedSums], note: Tensor
) -> None:
    squares = torch.stack([side.squares for side in sides])
    totals, weights = squares.sum(dim=1), torch.einsum("anm,bnm->mab", squares, squares)
    weighted = _weighted_sums(sides, pairs, note)
    sums: list[Tensor] = []
    added: list[Tensor] = []
    for m, mapped in enumerate(maps):
        sums += [*mapped.totals, *mapped.squares]
        added += [weighted[a, None][m] for a in range(len(sides))]
        added += list(totals[:, m])
        for (a, b), cross in zip(pairs, mapped.crosses, strict=True):
            sums += [cross.weight, cross.left]
            added += [weights[m, a, b, None], weighted[a, b][m]]
            if a != b:
                sums.append(cross.right)
                added.append(weighted[b, a][m])
    _add_small(sums, added, note)
    for p, (a, b) in enumerate(pairs):
        products = [mapped.crosses[p].product for mapped in maps]
        add_products(sides[a], sides[b], products, a == b, note)


def _weighted_sums(
    sides: Sequence[MappedRows], pairs: Pairs, note: Tensor
) -> dict[tuple[int, int | None], Tensor]:
    """Sums of each side's rows, and of them times the squares of another's: `(maps, d)` each."""
    wide = type_of_products(sides[0].rows)
    ones = torch.ones_like(sides[0].squares)
    found: dict[tuple[int, int | None], Tensor] = {}
    for a, x in enumerate(sides):
        partners = [right if left == a else left for left, right in pairs if a in (left, right)]
        others = list(dict.fromkeys(partners))
        weights = torch.stack([ones, *(sides[b].squares for b in others)]).to(wide)
        for b, total in zip((None, *others), weigh(x, weights, note).unbind(dim=1), strict=True):
            found[a, b] = total
    return found
