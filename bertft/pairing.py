"""Rows that models have in common: by position for the same tokens, else by word.

Owns which models share token ids, and what rows models may have that do not.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bertft.checkpoints import Checkpoint, same_rules
from bertft.corpora import Text
from bertft.rows import Encoded, Pieces, RowKind, Rows, draw
from bertft.tokenizing import encode_rows, paired

Encodings = Mapping[str, Sequence[Encoded]]


def encode_sides(
    texts: Sequence[Text],
    sides: Mapping[str, Checkpoint],
    kind: RowKind,
    max_length: int | None,
    pieces: Pieces,
    *,
    specials: bool,
) -> dict[str, list[Encoded]]:
    """Tokenize texts for each model; models with the same tokens share the same list.

    Special tokens are rows where all models have the same tokens, and else of none.

    Raises:
        ValueError: rows of tokens of models whose tokens differ, or a tokenizer that cannot tell
            what is asked for (see `tokenizing.encode`).
    """
    found: dict[str, list[Encoded]] = {}
    for role, side in sides.items():
        like = next((other for other in found if same_rules(sides[other], side)), None)
        if like is not None:
            found[role] = found[like]
            continue
        own = encode_rows(texts, side.tokenizer, kind, max_length, pieces, specials=specials)
        found[role] = next((other for other in found.values() if _are_same(own, other)), own)
    if shares_tokens(found):
        return found
    if kind == "tokens":
        _refuse_tokens(texts, sides, found)
    if specials:
        return encode_sides(texts, sides, kind, max_length, pieces, specials=False)
    return found


def shares_tokens(encodings: Encodings) -> bool:
    """Return whether all models have the same tokens."""
    return len({id(own) for own in encodings.values()}) == 1


def common_rows(
    encodings: Encodings, limit: int | None, seed: int
) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """Return the rows that all models have, and those of them that are drawn.

    Models with the same tokens share the same object.
    """
    everything = paired({id(own): own for own in encodings.values()})
    drawn = {key: draw(rows, limit, seed) for key, rows in everything.items()}
    views = {role: id(own) for role, own in encodings.items()}
    return (
        {role: everything[key] for role, key in views.items()},
        {role: drawn[key] for role, key in views.items()},
    )


def _are_same(encoding: Sequence[Encoded], other: Sequence[Encoded]) -> bool:
    """Whether tokenizers that differ in their files do the same to all texts."""
    return all(
        np.array_equal(a, b)
        for own, one in zip(encoding, other, strict=True)
        for a, b in ((own.ids, one.ids), (own.starts, one.starts), (own.stops, one.stops))
    )


def _refuse_tokens(
    texts: Sequence[Text], sides: Mapping[str, Checkpoint], encodings: Encodings
) -> None:
    (a, own), *others = encodings.items()
    b, other = next((role, each) for role, each in others if each is not own)
    place = next(
        i
        for i, pair in enumerate(zip(own, other, strict=True))
        if not _are_same(*([x] for x in pair))
    )
    raise ValueError(
        "[compare] models must turn texts into the same tokens for rows of tokens, got "
        f"{texts[place].text[:60]!r}, which {sides[a].name!r} and {sides[b].name!r} split "
        "differently; compare words (--rows words), or pass tokenizer= for both."
    )
