"""What tokenizers make of texts: ids, the characters of every piece, and what was cut off.

Owns which tokens are pieces of a text; `tokenizing` tells whose they are.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bertft.corpora import Text
from bertft.rows import FIRST, SECOND, SPECIAL

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

Integers = npt.NDArray[np.int64]
TEXTS_AT_ONCE = 512


@dataclass(frozen=True)
class Rules:
    """What of a tokenizer decides over rows: `is_special` by id, the last entry for all beyond."""

    is_special: npt.NDArray[np.bool_]
    cls_id: int | None
    has_types: bool
    truncation_side: str

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "Rules":
        """Return those of a fast tokenizer."""
        specials = _special_ids(tokenizer)
        # A vocabulary may have gaps, so its size is no bound.
        is_special = np.zeros(max(specials, default=-1) + 2, bool)
        is_special[specials] = True
        has_types = "token_type_ids" in tokenizer.model_input_names
        return cls(is_special, tokenizer.cls_token_id, has_types, tokenizer.truncation_side)


@dataclass(frozen=True)
class Tokens:
    """The tokens of some inputs, one input after another.

    A part is a text of an input: each input has one or, for a pair, two, one after the other.

    Attributes:
        ends: of the tokens of each input, from 0.
        ids, segments: of each token; `types` too, or none of a tokenizer without them.
        added: whether it is a special one that no text has.
        pieces: the numbers of those that stand for characters, by part.
        parts: the part of each piece.
        offsets: its characters `[start, stop)` in its part.
        kept: for parts of which pieces were taken off, the characters where none is missing.
    """

    ends: Integers
    ids: Integers
    segments: Integers
    types: Integers
    added: npt.NDArray[np.bool_]
    pieces: Integers
    parts: Integers
    offsets: Integers
    kept: dict[int, tuple[float, float]]

    @classmethod
    def of(cls, texts: "Sequence[Text]", encodings: "Sequence[Encoding]", rules: Rules) -> "Tokens":
        """Return what a tokenizer made of texts, an encoding for each."""
        ends = np.cumsum([0, *(len(encoding) for encoding in encodings)])
        n = int(ends[-1])
        ids = flat((encoding.ids for encoding in encodings), n)
        added = flat((encoding.special_tokens_mask for encoding in encodings), n).astype(bool)
        spans = chain.from_iterable(encoding.offsets for encoding in encodings)
        offsets = flat(spans, 2 * n).reshape(-1, 2)
        types = flat((e.type_ids for e in encodings), n) if rules.has_types else np.empty(0, int)
        segments = np.where(added, SPECIAL, FIRST)
        if any(text.second is not None for text in texts):
            owners = flat(([o or 0 for o in e.sequence_ids] for e in encodings), n)
            segments[(owners == 1) & ~added] = SECOND
        is_special = rules.is_special[np.minimum(ids, len(rules.is_special) - 1)]
        pieces = np.flatnonzero(~added & ~is_special & (offsets[:, 1] > offsets[:, 0]))
        firsts = np.cumsum([0, *(len(text.segments) for text in texts)])
        parts = np.repeat(firsts[:-1], np.diff(ends))[pieces] + segments[pieces] - FIRST
        order = np.argsort(parts, kind="stable")
        kept = {
            int(first) + number: own
            for first, text, encoding in zip(firsts, texts, encodings, strict=False)
            if (overflowing := encoding.overflowing)
            for number in range(len(text.segments))
            if (own := _kept(encoding, overflowing, number, rules.truncation_side)) is not None
        }
        pieces = pieces[order]
        return cls(ends, ids, segments, types, added, pieces, parts[order], offsets[pieces], kept)

    def inputs_of(self, tokens: Integers) -> Integers:
        """Return the number of the input of each of some tokens."""
        return np.searchsorted(self.ends, tokens, side="right") - 1


def flat(lists: Iterable[Iterable[int]], count: int) -> Integers:
    """Return the integers of lists one after another, `count` of them."""
    return np.fromiter(chain.from_iterable(lists), np.int64, count)


def _special_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids that stand for no word wherever they are: all special ones, but for an unknown word's."""
    added = tokenizer.added_tokens_decoder.items()
    specials = {*tokenizer.all_special_ids, *(number for number, own in added if own.special)}
    # GPT-2 has one token to end texts and for what is unknown, which nothing is to its bytes.
    if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        specials.discard(tokenizer.unk_token_id)
    return sorted(specials)


def _kept(
    encoding: "Encoding", overflowing: "Sequence[Encoding]", number: int, side: str
) -> tuple[float, float] | None:
    """The characters of a text of an input of which no piece was taken off; None for all."""
    own = _pieces_of(encoding, number)
    # Of a pair, what was taken off one text comes with all that is left of the other.
    parts = [_pieces_of(part, number) for part in overflowing]
    off = [span for part in parts if part != own for _, span in part]
    if not off:
        return None
    # Pieces of a character that takes several (bytes) have the same offsets: it may be divided.
    if side == "left":
        return max(stop for _, stop in off), math.inf
    return 0, min(start for start, _ in off)


def _pieces_of(encoding: "Encoding", number: int) -> list[tuple[int, tuple[int, int]]]:
    """Ids and offsets of the pieces of a text of an input."""
    told = zip(encoding.ids, encoding.offsets, encoding.sequence_ids, strict=True)
    return [(piece, span) for piece, span, owner in told if owner == number and span[1] > span[0]]


def tokenized(
    texts: Sequence[Text], tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> "Iterator[tuple[Sequence[Text], Sequence[Encoding]]]":
    """Yield some texts or pairs of texts at a time, with what a tokenizer makes of each.

    What tokenizers return takes far more memory than the ids.
    """
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[first : first + TEXTS_AT_ONCE]
        inputs = [
            text.text if text.second is None else (text.text, text.second.text) for text in some
        ]
        encoded = tokenizer(
            inputs, truncation=max_length is not None, max_length=max_length, padding=False
        )
        yield some, encoded.encodings
