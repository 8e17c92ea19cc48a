"""From texts to token ids, with the run of positions of every word, token or special token.

Owns which pieces are a word's, for one tokenizer or for several: words are those of the corpus, and
each tokenizer's pieces belong to the words whose characters they cover. So models of different
vocabularies are compared word by word.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from bertft.corpora import Text
from bertft.rows import SEGMENTS, Encoded, Pieces, RowKind, Rows

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

Integers = npt.NDArray[np.int64]
Name = TypeVar("Name")
TEXTS_AT_ONCE = 512
CUT_OFF = -1
SPECIAL, FIRST, SECOND = range(len(SEGMENTS))


def encode(
    texts: Sequence[Text],
    tokenizer: "PreTrainedTokenizerBase",
    kind: RowKind = "words",
    max_length: int | None = None,
    pieces: Pieces = "mean",
) -> Rows:
    """Tokenize texts and find the run of positions of each row.

    Args:
        texts: to be tokenized.
        tokenizer: a fast one.
        kind: "words"; "tokens", special ones left out; or "cls", the classification token.
        max_length: most tokens of an input.
        pieces: of a word: the mean of all of them, or its "first" or "last" one.

    Raises:
        ValueError: an unknown kind, a tokenizer that does not tell character offsets, or one
            that gives texts no classification token where it is wanted.
    """
    return paired({"": encode_rows(texts, tokenizer, kind, max_length, pieces)})[""]


def encode_words(
    texts: Sequence[Text],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None = None,
) -> list[Encoded]:
    """Tokenize texts and find the run of positions of every word, in order.

    A word without a piece has the empty run `start == stop == 0`. Words that `max_length` cuts
    off, whole or in part, have `start == stop == CUT_OFF`; they are the last ones of their text, or
    the first ones for a tokenizer that truncates on the left.

    Raises:
        ValueError: a tokenizer that does not tell character offsets.
    """
    return encode_rows(texts, tokenizer, "words", max_length)


def encode_rows(
    texts: Sequence[Text],
    tokenizer: "PreTrainedTokenizerBase",
    kind: RowKind,
    max_length: int | None = None,
    pieces: Pieces = "mean",
    *,
    specials: bool = False,
) -> list[Encoded]:
    """Tokenize texts and find the run of positions of everything that may be a row, in order.

    As `encode`, but words without a run are there too (see `encode_words`), and with `specials` the
    special tokens of each input, a row each, come before its words or tokens.
    """
    if kind not in get_args(RowKind) or pieces not in get_args(Pieces):
        raise ValueError(
            f"[encode] rows must be among {', '.join(get_args(RowKind))} and pieces among "
            f"{', '.join(get_args(Pieces))}, got {kind!r} and {pieces!r}; pass one of each."
        )
    if kind == "cls" and tokenizer.cls_token_id not in tokenizer("")["input_ids"]:
        raise ValueError(
            f"[encode] tokenizer must give texts a classification token for rows of 'cls', got "
            f"{type(tokenizer).__name__} that gives none; use words or tokens."
        )
    return [
        _encoded(place, text, tokens, tokenizer.cls_token_id, kind, pieces, specials)
        for place, (text, tokens) in enumerate(
            zip(texts, _tokenized(texts, tokenizer, max_length), strict=True)
        )
    ]


def paired(encodings: Mapping[Name, Sequence[Encoded]]) -> dict[Name, Rows]:
    """Return the rows that all of several tokenizers have, and count the words that they lack.

    Args:
        encodings: of the same texts by each of them, from `encode_rows`.
    """
    views = list(encodings.values())
    ends = np.cumsum([0, *(len(text.starts) for text in views[0])])
    empty = np.empty(0, np.int32)
    starts = [np.concatenate([empty, *(text.starts for text in view)]) for view in views]
    stops = [np.concatenate([empty, *(text.stops for text in view)]) for view in views]
    cut = np.logical_or.reduce([own == CUT_OFF for own in stops])
    has_piece = [last > first for first, last in zip(starts, stops, strict=True)]
    in_all, in_some = np.logical_and.reduce(has_piece), np.logical_or.reduce(has_piece)
    kept = [in_all[first:last] for first, last in pairwise(ends)]
    counts = {
        "truncated_texts": sum(any(t.is_cut for t in texts) for texts in zip(*views, strict=True)),
        "truncated_words": int(cut.sum()),
        "dropped_words": int((~cut & ~in_some).sum()),
        "unpaired_words": int((~cut & in_some & ~in_all).sum()),
    }
    return {
        name: Rows([text.only(own) for text, own in zip(view, kept, strict=True)], **counts)
        for name, view in encodings.items()
    }


def of_segment(encoding: Sequence[Encoded], segment: int) -> list[Encoded]:
    """Return the same inputs with the rows of one segment only, a place in `SEGMENTS`."""
    return [
        text.only(np.full(len(text.starts), FIRST) == segment)
        if text.segments is None
        else text.only(text.segments == segment)
        for text in encoding
    ]


@dataclass(frozen=True)
class _Tokens:
    """A tokenized input: ids, character offsets, the positions of pieces, and if it was cut.

    `segments` and `types` have an entry for each position, `types` none where all are 0, and `kept`
    one for each text of the input: the characters `[start, stop)` of which no piece was taken off,
    None where all are there. `added` are the positions of the special tokens.
    """

    ids: Integers
    offsets: Integers
    pieces: Integers
    added: Integers
    segments: Integers
    types: Integers
    kept: tuple[tuple[float, float] | None, ...]


def _tokenized(
    texts: Sequence[Text], tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> Iterator[_Tokens]:
    if not tokenizer.is_fast:
        raise ValueError(
            "[encode] tokenizer must tell character offsets and word ids, got "
            f"{type(tokenizer).__name__}; save it as a fast tokenizer (tokenizer.json)."
        )
    specials = _special_ids(tokenizer)
    # The last entry stands for all ids beyond: a vocabulary may have gaps, so its size is no bound.
    is_special = np.zeros(max(specials, default=-1) + 2, bool)
    is_special[specials] = True
    has_types = "token_type_ids" in tokenizer.model_input_names
    for text, encoding in zip(texts, _encodings(texts, tokenizer, max_length), strict=True):
        ids = np.array(encoding.ids, np.int64)
        added = np.array(encoding.special_tokens_mask, bool)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        segments = np.where(added, SPECIAL, FIRST)
        if text.second is not None:
            of_second = [number == 1 for number in encoding.sequence_ids]
            segments[np.array(of_second, bool) & ~added] = SECOND
        is_typed = has_types and any(encoding.type_ids)
        types = np.array(encoding.type_ids if is_typed else [], np.int64)
        is_piece = (
            ~added
            & ~is_special[np.minimum(ids, len(is_special) - 1)]
            & (offsets[:, 1] > offsets[:, 0])
        )
        pieces = np.flatnonzero(is_piece)
        overflowing = encoding.overflowing
        kept = tuple(
            _kept(encoding, overflowing, number, tokenizer.truncation_side) if overflowing else None
            for number in range(len(text.segments))
        )
        yield _Tokens(ids, offsets, pieces, np.flatnonzero(added), segments, types, kept)


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


def _encodings(
    texts: Sequence[Text], tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> "Iterator[Encoding]":
    # A chunk at a time: what tokenizers return takes far more memory than the ids.
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[first : first + TEXTS_AT_ONCE]
        inputs = [
            text.text if text.second is None else (text.text, text.second.text) for text in some
        ]
        encoded = tokenizer(
            inputs, truncation=max_length is not None, max_length=max_length, padding=False
        )
        yield from encoded.encodings


def _encoded(
    place: int,
    text: Text,
    tokens: _Tokens,
    cls_id: int | None,
    kind: RowKind,
    pieces: Pieces,
    specials: bool,
) -> Encoded:
    """An input with everything that may be a row of it."""
    parts: list[tuple[Integers, Integers]] = []
    of: list[int] = []
    if kind == "cls":
        own = tokens.added[tokens.ids[tokens.added] == cls_id][:1]
        parts.append((own, own + 1))
        of.append(SPECIAL)
    if specials:
        parts.append((tokens.added, tokens.added + 1))
        of.append(SPECIAL)
    if kind != "cls":
        for number, part in enumerate(text.segments):
            own = tokens.pieces[tokens.segments[tokens.pieces] == FIRST + number]
            if kind == "tokens":
                parts.append((own, own + 1))
            else:
                parts.append(_of_pieces(_word_runs(part, tokens, own, number), pieces))
            of.append(FIRST + number)
    starts, stops = (np.concatenate(ends).astype(np.int32) for ends in zip(*parts, strict=True))
    segments = np.repeat(np.array(of, np.int32), [len(starts) for starts, _ in parts])
    return Encoded(
        tokens.ids.astype(np.int32),
        starts,
        stops,
        place=place,
        segments=None if of == [FIRST] else segments,
        types=tokens.types.astype(np.int32) if tokens.types.any() else None,
        is_cut=any(kept is not None for kept in tokens.kept),
    )


def _of_pieces(runs: tuple[Integers, Integers], pieces: Pieces) -> tuple[Integers, Integers]:
    """The runs of words with all of their pieces, or with one of them."""
    starts, stops = runs
    is_whole = (pieces == "mean") | (stops <= starts)
    if pieces == "first":
        return starts, np.where(is_whole, stops, starts + 1)
    return np.where(is_whole, starts, stops - 1), stops


def _word_runs(
    text: Text, tokens: _Tokens, pieces: Integers, number: int
) -> tuple[Integers, Integers]:
    """The run of every word, empty for a word without pieces and `CUT_OFF` for one that is cut."""
    words = np.array(text.words, np.int64).reshape(-1, 2)
    starts, stops = tokens.offsets[pieces, 0], tokens.offsets[pieces, 1]
    first = np.searchsorted(stops, words[:, 0], side="right")
    last = np.searchsorted(starts, words[:, 1], side="left")
    runs = np.zeros((2, len(words)), np.int64)
    covered = last > first
    runs[0, covered], runs[1, covered] = pieces[first[covered]], pieces[last[covered] - 1] + 1
    if (kept := tokens.kept[number]) is not None:
        runs[:, (words[:, 0] < kept[0]) | (words[:, 1] > kept[1])] = CUT_OFF
    return runs[0], runs[1]
