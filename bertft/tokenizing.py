"""From texts to token ids, with the run of positions of every word, token or special token.

Owns which pieces are a word's, for one tokenizer or for several: words are those of the corpus, and
each tokenizer's pieces belong to the words whose characters they cover. So models of different
vocabularies are compared word by word.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar, get_args

import numpy as np

from bertft.corpora import Text
from bertft.rows import FIRST, SPECIAL, Encoded, Pieces, RowKind, Rows
from bertft.tokens import Integers, Rules, Tokens, flat, tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Name = TypeVar("Name")
CUT_OFF = -1


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
    if not tokenizer.is_fast:
        raise ValueError(
            "[encode] tokenizer must tell character offsets and word ids, got "
            f"{type(tokenizer).__name__}; save it as a fast tokenizer (tokenizer.json)."
        )
    rules = Rules.of(tokenizer)
    found: list[Encoded] = []
    for some, encodings in tokenized(texts, tokenizer, max_length):
        tokens = Tokens.of(some, encodings, rules)
        found += _encoded(len(found), some, tokens, rules, kind, pieces, specials)
    return found


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


def _encoded(
    place: int,
    texts: Sequence[Text],
    tokens: Tokens,
    rules: Rules,
    kind: RowKind,
    pieces: Pieces,
    specials: bool,
) -> list[Encoded]:
    """Inputs, of which the first has the number `place`, with all that may be a row of them."""
    runs = []
    if kind == "cls":
        own = np.flatnonzero(tokens.added & (tokens.ids == rules.cls_id))
        inputs, firsts = np.unique(tokens.inputs_of(own), return_index=True)
        runs.append(_Runs.of_tokens(inputs, own[firsts], SPECIAL))
    if specials:
        own = np.flatnonzero(tokens.added)
        runs.append(_Runs.of_tokens(tokens.inputs_of(own), own, SPECIAL))
    if kind == "tokens":
        own = tokens.pieces
        runs.append(_Runs.of_tokens(tokens.inputs_of(own), own, tokens.segments[own]))
    if kind == "words":
        runs.append(_word_runs(texts, tokens, pieces))
    every = _Runs(*(np.concatenate(columns) for columns in zip(*runs, strict=True)))
    if len(runs) > 1:
        order = np.argsort(every.inputs, kind="stable")
        every = _Runs(*(column[order] for column in every))
    # Numbers of tokens become positions of their input.
    origins = np.where(every.stops > 0, tokens.ends[every.inputs], 0)
    starts, stops = ((ends - origins).astype(np.int32) for ends in (every.starts, every.stops))
    segments, ids = every.segments.astype(np.int32), tokens.ids.astype(np.int32)
    types = tokens.types.astype(np.int32)
    rows = np.searchsorted(every.inputs, np.arange(len(texts) + 1)).tolist()
    is_cut = set(_inputs_of_parts(texts)[list(tokens.kept)].tolist())
    found = []
    for number, ((first, last), (begin, end)) in enumerate(
        zip(pairwise(rows), pairwise(tokens.ends.tolist()), strict=True)
    ):
        is_plain = kind != "cls" and not specials and texts[number].second is None
        own_types = types[begin:end]
        found.append(
            Encoded(
                ids[begin:end].copy(),  # not a view of those of all inputs
                starts[first:last],
                stops[first:last],
                place=place + number,
                segments=None if is_plain else segments[first:last],
                types=own_types if own_types.any() else None,
                is_cut=number in is_cut,
            )
        )
    return found


class _Runs(NamedTuple):
    """Runs of tokens [start, stop) that may be rows, with their input and what they are of."""

    inputs: Integers
    starts: Integers
    stops: Integers
    segments: Integers

    @classmethod
    def of_tokens(cls, inputs: Integers, tokens: Integers, segments: int | Integers) -> "_Runs":
        return cls(inputs, tokens, tokens + 1, np.broadcast_to(segments, tokens.shape))


def _inputs_of_parts(texts: Sequence[Text]) -> Integers:
    return np.repeat(np.arange(len(texts)), [len(text.segments) for text in texts])


def _of_pieces(runs: tuple[Integers, Integers], pieces: Pieces) -> tuple[Integers, Integers]:
    """The runs of words with all of their pieces, or with one of them."""
    starts, stops = runs
    is_whole = (pieces == "mean") | (stops <= starts)
    if pieces == "first":
        return starts, np.where(is_whole, stops, starts + 1)
    return np.where(is_whole, starts, stops - 1), stops


def _word_runs(texts: Sequence[Text], tokens: Tokens, pieces: Pieces) -> _Runs:
    """The run of every word, empty for a word without pieces and `CUT_OFF` for one that is cut."""
    every = [part for text in texts for part in text.segments]
    counts = [len(part.words) for part in every]
    parts = np.repeat(np.arange(len(every)), counts)
    spans = chain.from_iterable(part.words for part in every)
    words = flat(spans, 2 * len(parts)).reshape(-1, 2)
    # Characters counted over all parts: pieces and words of one are not among those of another.
    longest = 1 + max(words.max(initial=0), tokens.offsets.max(initial=0))
    offsets = tokens.offsets + longest * tokens.parts[:, None]
    places = words + longest * parts[:, None]
    first = np.searchsorted(offsets[:, 1], places[:, 0], side="right")
    last = np.searchsorted(offsets[:, 0], places[:, 1], side="left")
    runs = np.zeros((2, len(words)), np.int64)
    covered = last > first
    runs[0, covered] = tokens.pieces[first[covered]]
    runs[1, covered] = tokens.pieces[last[covered] - 1] + 1
    runs = np.stack(_of_pieces((runs[0], runs[1]), pieces))
    for part, (start, stop) in tokens.kept.items():
        own = slice(*np.searchsorted(parts, (part, part + 1)))
        runs[:, own][:, (words[own, 0] < start) | (words[own, 1] > stop)] = CUT_OFF
    inputs = _inputs_of_parts(texts)
    numbers = np.concatenate([np.arange(len(text.segments)) for text in texts])
    return _Runs(inputs[parts], runs[0], runs[1], FIRST + numbers[parts])
