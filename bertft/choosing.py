"""Which of the measures that are asked for the rows of a corpus and the models' layers allow."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from bertft.blocks import Layer
from bertft.checkpoints import Checkpoint
from bertft.planning import Options
from bertft.similarity import MEASURES, SAMPLED


def notes_on_intervals(
    name: str,
    measures: Sequence[str],
    bounds: Sequence[int],
    columns: Sequence[tuple[int, int]],
    options: Options,
) -> list[str]:
    """Tell which measures will have no interval, since a group less leaves too few rows."""
    if not bounds or options.ridge is not None:
        return []
    d = max(map(max, columns))
    left = bounds[-1] - max(stop - start for start, stop in pairwise(bounds))
    short = [of for of in measures if of in MEASURES and MEASURES[of].n_above_d and left <= d]
    if not short:
        return []
    return [
        f"{name}: no intervals of {', '.join(short)}: without the largest group {left} rows are "
        f"left for {d} columns; pass more text, more groups, or ridge."
    ]


def choose(
    options: Options,
    n: int,
    sides: Mapping[str, Checkpoint],
    pairs: Sequence[tuple[Layer, Layer]],
    corpus: str,
    notes: list[str],
) -> list[str]:
    """Return the measures that these rows allow, and note those that they do not.

    Raises:
        ValueError: one of the latter was asked for by name.
    """
    columns = columns_of(sides, pairs)
    d = max(map(max, columns))
    default = [name for name, measure in MEASURES.items() if measure.default]
    chosen = list(options.measures or default)
    of_sums = [name for name in chosen if name in MEASURES]
    sampled = min(n, options.sample)
    short = [name for name in of_sums if MEASURES[name].n_above_d and n <= d and not options.ridge]
    few = [name for name in of_sums if n < MEASURES[name].least_rows]
    least = {name: SAMPLED[name].least_rows for name in chosen if name in SAMPLED}
    few_sampled = [name for name in least if sampled < least[name]]
    many_sampled = [name for name in least if sampled > SAMPLED[name].most_rows]
    is_uneven = any(a != b for a, b in columns)
    unequal = [name for name in of_sums if MEASURES[name].same_width and is_uneven]
    why = []
    if short:
        why.append(
            f"{', '.join(short)} need more rows than columns, got n={n} and d={d} on {corpus!r}; "
            "pass more text or a larger limit, ridge, or use svcca or cka_debiased"
        )
    if few:
        why.append(f"{', '.join(few)} need more rows, got n={n} on {corpus!r}; pass more text")
    if few_sampled:
        remedy = "pass more text or a larger limit" if sampled == n else "pass a larger sample"
        why.append(
            f"{', '.join(few_sampled)} need a sample of {max(least[name] for name in few_sampled)} "
            f"rows, got {sampled} of n={n} on {corpus!r}; {remedy}"
        )
    if many_sampled:
        most = min(SAMPLED[name].most_rows for name in many_sampled)
        why.append(
            f"{', '.join(many_sampled)} take a sample of at most {most:,} rows, got {sampled:,} on "
            f"{corpus!r}; pass a smaller sample"
        )
    if unequal:
        why.append(f"{', '.join(unequal)} need layers of the same width; use rsa or cka")
    if options.measures and why:
        raise ValueError(f"[compare] measures must suit the rows: {'; '.join(why)}.")
    notes.extend(f"left out: {reason}." for reason in why)
    left_out = {*short, *few, *few_sampled, *many_sampled, *unequal}
    return [name for name in chosen if name not in left_out]


def columns_of(
    sides: Mapping[str, Checkpoint], pairs: Sequence[tuple[Layer, Layer]]
) -> list[tuple[int, int]]:
    """Return the columns of both layers of each pair."""
    first, second = (side.blocks for side in sides.values())
    return [(first.width(a), second.width(b)) for a, b in pairs]
