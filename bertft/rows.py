"""Which positions become rows: words or tokens, a uniform draw of them, and batches.

Owns the way from texts to token ids with the runs of positions that each row averages. Special
tokens and padding never enter a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertft.corpora import Text

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

RowKind = Literal["words", "tokens"]
Integers = npt.NDArray[np.int64]
TEXTS_AT_ONCE = 512
CUT_OFF = -1


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text, and for each of its rows the run of positions [start, stop); int32.

    `first` is the number that its first row has among those of all texts, once they are drawn.
    """

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    stops: npt.NDArray[np.int32]
    first: int = 0


@dataclass
class Rows:
    """The rows of a corpus: encoded texts and what was left out on the way.

    Attributes:
        texts: encoded texts; after `draw` only those with a row.
        truncated_texts: texts that are longer than the model or `max_length` allows.
        truncated_words: words that such a cut took off, whole or in part.
        dropped_words: words for which the tokenizer has no piece.
    """

    texts: list[Encoded] = field(default_factory=list)
    truncated_texts: int = 0
    truncated_words: int = 0
    dropped_words: int = 0

    @property
    def n(self) -> int:
        """Number of rows."""
        return sum(len(text.starts) for text in self.texts)

    @property
    def tokens(self) -> int:
        """Number of tokens, special ones included and padding not."""
        return sum(len(text.ids) for text in self.texts)


@dataclass(frozen=True)
class Batch:
    """Padded token ids `(batch, length)` with mask, and runs over the flattened positions.

    `numbers` tells which of the rows of all texts the runs are.
    """

    ids: Tensor
    mask: Tensor
    starts: Tensor
    stops: Tensor
    numbers: Tensor


def encode(
    texts: Sequence[Text],
    tokenizer: "PreTrainedTokenizerBase",
    kind: RowKind = "words",
    max_length: int | None = None,
) -> Rows:
    """Tokenize texts and find the run of positions of each row.

    Raises:
        ValueError: an unknown kind, or a tokenizer that does not tell character offsets.
    """
    if kind not in ("words", "tokens"):
        raise ValueError(f'[encode] rows must be "words" or "tokens", got {kind!r}; pass one.')
    rows = Rows()
    for text, tokens in zip(texts, _tokenized(texts, tokenizer, max_length), strict=True):
        rows.truncated_texts += tokens.cut
        if kind == "tokens":
            starts, stops = tokens.pieces, tokens.pieces + 1
        else:
            starts, stops = _runs(rows, text, tokens)
        rows.texts.append(_encoded(tokens, starts, stops))
    return rows


def encode_words(
    texts: Sequence[Text],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None = None,
) -> list[Encoded]:
    """Tokenize texts and find the run of positions of every word, in order.

    A word without a piece has the empty run `start == stop == 0`. Words that `max_length` cuts
    off, whole or in part, have `start == stop == CUT_OFF`; they are the last ones of their text.

    Raises:
        ValueError: a tokenizer that does not tell character offsets.
    """
    return [
        _encoded(tokens, *_word_runs(text, tokens))
        for text, tokens in zip(texts, _tokenized(texts, tokenizer, max_length), strict=True)
    ]


def draw(rows: Rows, limit: int | None, seed: int) -> Rows:
    """Keep `limit` rows drawn uniformly without replacement, or all of them, and number them.

    The draw depends on the seed and on the number of rows only, not on how they are batched.
    """
    chosen = np.ones(rows.n, bool)
    if limit is not None and limit < rows.n:
        chosen[:] = False
        chosen[np.random.default_rng(seed).choice(rows.n, limit, replace=False)] = True
    kept, first, number = [], 0, 0
    for text in rows.texts:
        own = chosen[first : first + len(text.starts)]
        first += len(text.starts)
        if own.any():
            kept.append(Encoded(text.ids, text.starts[own], text.stops[own], number))
            number += len(kept[-1].starts)
    return Rows(kept, rows.truncated_texts, rows.truncated_words, rows.dropped_words)


def batches(rows: Rows, batch_size: int, most_rows: int) -> list[list[Encoded]]:
    """Return groups of texts of similar length, the longest first.

    A group has at most `batch_size` texts and, unless it is a single text, `most_rows` rows.
    """
    groups: list[list[Encoded]] = []
    n = 0
    for text in sorted(rows.texts, key=lambda text: -len(text.ids)):
        n += len(text.starts)
        if not groups or len(groups[-1]) == batch_size or n > most_rows:
            groups.append([])
            n = len(text.starts)
        groups[-1].append(text)
    return groups


def pad(texts: Sequence[Encoded], pad_id: int) -> Batch:
    """Return texts as one batch, padded on the right."""
    length = max(len(text.ids) for text in texts)
    ids = np.full((len(texts), length), pad_id, np.int64)
    mask = np.zeros((len(texts), length), np.int64)
    for i, text in enumerate(texts):
        ids[i, : len(text.ids)] = text.ids
        mask[i, : len(text.ids)] = 1
    starts = np.concatenate(
        [i * length + text.starts.astype(np.int64) for i, text in enumerate(texts)]
    )
    stops = np.concatenate(
        [i * length + text.stops.astype(np.int64) for i, text in enumerate(texts)]
    )
    numbers = np.concatenate([text.first + np.arange(len(text.starts)) for text in texts])
    return Batch(*(torch.from_numpy(array) for array in (ids, mask, starts, stops, numbers)))


@dataclass(frozen=True)
class _Tokens:
    """A tokenized text: ids, character offsets, the positions of pieces, and if it was cut."""

    ids: Integers
    offsets: Integers
    pieces: Integers
    cut: bool


def _tokenized(
    texts: Sequence[Text], tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> Iterator[_Tokens]:
    if not tokenizer.is_fast:
        raise ValueError(
            f"[encode] tokenizer must tell character offsets, got {type(tokenizer).__name__}; save "
            "it as a fast tokenizer (tokenizer.json)."
        )
    specials = np.array(sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}), np.int64)
    for encoding in _encodings(texts, tokenizer, max_length):
        ids = np.array(encoding.ids, np.int64)
        special = np.array(encoding.special_tokens_mask, bool) | np.isin(ids, specials)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        pieces = np.flatnonzero(~special & (offsets[:, 1] > offsets[:, 0]))
        yield _Tokens(ids, offsets, pieces, bool(encoding.overflowing))


def _encodings(
    texts: Sequence[Text], tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> "Iterator[Encoding]":
    # A chunk at a time: what tokenizers return takes far more memory than the ids.
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        encoded = tokenizer(
            [text.text for text in texts[first : first + TEXTS_AT_ONCE]],
            truncation=max_length is not None,
            max_length=max_length,
            padding=False,
        )
        yield from encoded.encodings


def _encoded(tokens: _Tokens, starts: Integers, stops: Integers) -> Encoded:
    return Encoded(tokens.ids.astype(np.int32), starts.astype(np.int32), stops.astype(np.int32))


def _runs(rows: Rows, text: Text, tokens: _Tokens) -> tuple[Integers, Integers]:
    """Runs of positions that cover each word; words without pieces, or cut, are counted."""
    starts, stops = _word_runs(text, tokens)
    rows.truncated_words += int((starts == CUT_OFF).sum())
    covered = stops > starts
    rows.dropped_words += int((~covered & (starts != CUT_OFF)).sum())
    return starts[covered], stops[covered]


def _word_runs(text: Text, tokens: _Tokens) -> tuple[Integers, Integers]:
    """The run of every word, empty for a word without pieces and `CUT_OFF` for one that is cut."""
    words = np.array(text.words, np.int64).reshape(-1, 2)
    pieces = tokens.pieces
    starts, stops = tokens.offsets[pieces, 0], tokens.offsets[pieces, 1]
    first = np.searchsorted(stops, words[:, 0], side="right")
    last = np.searchsorted(starts, words[:, 1], side="left")
    runs = np.zeros((2, len(words)), np.int64)
    covered = last > first
    runs[0, covered], runs[1, covered] = pieces[first[covered]], pieces[last[covered] - 1] + 1
    if tokens.cut:
        runs[:, words[:, 1] > (stops[-1] if len(stops) else 0)] = CUT_OFF
    return runs[0], runs[1]
