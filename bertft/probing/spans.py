"""From spans of words to rows of features.

Owns which pieces a span covers, which rows that takes, and which targets are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bertft.corpora import Text
from bertft.corpora.edges import Record
from bertft.rows import Encoded, Rows
from bertft.tokenizing import CUT_OFF, encode_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Integers = npt.NDArray[np.int64]
Ranges = tuple[Integers, Integers]


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets as ranges of rows, in the order of the records.

    Attributes:
        starts: first row of each span, `(targets, spans)`.
        stops: the row after its last one, `(targets, spans)`.
        sentence: number of each target's record.
        kept: number of each target among all targets of the records.
        dropped: targets left out because the tokenizer has no piece for any word of a span.
        cut: targets left out because a span reaches beyond the maximal length.
    """

    starts: Integers
    stops: Integers
    sentence: Integers
    kept: Integers
    dropped: int
    cut: int


def span_rows(
    records: Sequence[Record],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    pool: bool,
) -> tuple[Rows, Targets]:
    """Return the rows that the spans of records need, and each target's ranges among them.

    A span covers the pieces from the first of its words to the last, so a special token spelled
    out between two of them is inside. Words of it without a piece do not matter while another has
    one. Only texts with a row are among the rows.

    Args:
        records: those of one split of a task.
        tokenizer: with character offsets.
        max_length: most positions of a text, special ones included.
        pool: a row for each span, the mean of its pieces (ranges of one row), instead of a row
            for each piece that a span covers (ranges of all of them).

    Raises:
        ValueError: a tokenizer that does not tell character offsets, or no target that is kept.
    """
    texts = encode_words([Text.of_words(record.words) for record in records], tokenizer, max_length)
    origins = _before([len(text.ids) for text in texts])
    starts, stops = _concatenated(texts)
    sentence, spans = _flattened(records)

    covered = np.flatnonzero(stops > starts)
    # Words with a piece before each end of a span: as many before both where no word has one.
    first, last = np.searchsorted(covered, spans[..., 0]), np.searchsorted(covered, spans[..., 1])
    # A text is cut at one end, so a span is whole if its first and its last word are.
    cut = ((stops[spans[..., 0]] == CUT_OFF) | (stops[spans[..., 1] - 1] == CUT_OFF)).any(axis=1)
    dropped = ~cut & (first == last).any(axis=1)
    kept = np.flatnonzero(~cut & ~dropped)
    if not len(kept):
        raise ValueError(
            f"[span_rows] records must have a target that the tokenizer keeps, got {len(cut)} of "
            f"which {int(cut.sum())} are cut off at {max_length} positions and "
            f"{int(dropped.sum())} have no piece; pass other sentences."
        )
    origin = origins[sentence[kept], None]
    begins = starts[covered[first[kept]]] + origin
    ends = stops[covered[last[kept] - 1]] + origin
    runs, numbers = (_pooled if pool else _pieces)(begins, ends)
    rows = Rows(
        _with_rows(texts, origins, *runs),
        truncated_texts=sum(bool((text.stops == CUT_OFF).any()) for text in texts),
        truncated_words=int((stops == CUT_OFF).sum()),
        dropped_words=int((stops == 0).sum()),
    )
    return rows, Targets(*numbers, sentence[kept], kept, int(dropped.sum()), int(cut.sum()))


def _concatenated(texts: Sequence[Encoded]) -> Ranges:
    """The runs of the words of all texts, each within its text."""
    none = np.empty(0, np.int64)
    return (
        np.concatenate([none, *(text.starts for text in texts)]),
        np.concatenate([none, *(text.stops for text in texts)]),
    )


def _flattened(records: Sequence[Record]) -> tuple[Integers, Integers]:
    """Record and spans of all targets, `(T,)` and `(T, S, 2)`, words counted over all records."""
    words = _before([len(record.words) for record in records])
    sentence = np.repeat(np.arange(len(records)), [len(record.targets) for record in records])
    spans = [target.spans for record in records for target in record.targets]
    flat = np.array(spans, np.int64) if spans else np.empty((0, 1, 2), np.int64)
    return sentence, flat + words[sentence, None, None]


def _pieces(begins: Integers, ends: Integers) -> tuple[Ranges, Ranges]:
    """A row for each position in a span, and the rows of each span."""
    edges = np.zeros(ends.max() + 1, np.int64)
    np.add.at(edges, begins.ravel(), 1)
    np.add.at(edges, ends.ravel(), -1)
    inside = edges.cumsum() > 0
    places = np.flatnonzero(inside)
    before = _before(inside)
    return (places, places + 1), (before[begins], before[ends])


def _pooled(begins: Integers, ends: Integers) -> tuple[Ranges, Ranges]:
    """A row for each different span, and the row of each."""
    pairs = np.stack([begins.ravel(), ends.ravel()], axis=1)
    rows, numbers = np.unique(pairs, axis=0, return_inverse=True)
    numbers = numbers.reshape(begins.shape)
    return (rows[:, 0], rows[:, 1]), (numbers, numbers + 1)


def _with_rows(
    texts: Sequence[Encoded], origins: Integers, begins: Integers, ends: Integers
) -> list[Encoded]:
    """The texts that have a row, with their rows."""
    bounds = np.searchsorted(begins, origins)
    return [
        Encoded(
            text.ids,
            (begins[first:last] - origin).astype(np.int32),
            (ends[first:last] - origin).astype(np.int32),
        )
        for text, origin, first, last in zip(
            texts, origins[:-1], bounds[:-1], bounds[1:], strict=True
        )
        if last > first
    ]


def _before(counts: npt.ArrayLike) -> Integers:
    """How many there are before each, and in all."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
