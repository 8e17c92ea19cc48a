"""What is to be done on each corpus, decided and checked before any model runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertft.checkpoints import Checkpoint, require_same_tokens
from bertft.corpora import Corpus
from bertft.ops import RowMap
from bertft.rows import RowKind, Rows, draw, encode
from bertft.similarity import MEASURES


@dataclass(frozen=True)
class Task:
    """What is to be done on one corpus, and what it leaves out.

    Attributes:
        name: of the corpus.
        source: where its texts came from.
        fingerprint: of its texts, which are no longer needed.
        texts: how many there were.
        rows: the encoded texts with the rows that were drawn.
        available: rows that there were to draw from.
        measures: names of the measures that these rows allow.
        max_length: most tokens of a text.
        notes: what the user should know.
    """

    name: str
    source: str
    fingerprint: str
    texts: int
    rows: Rows
    available: int
    measures: list[str]
    max_length: int | None
    notes: list[str]

    @property
    def row_maps(self) -> list[RowMap]:
        """Row maps that the measures read."""
        needed = {MEASURES[name].row_map for name in self.measures}
        maps: tuple[RowMap, ...] = ("raw", "unit", "centered_unit")
        return [row_map for row_map in maps if row_map in needed]

    def plan(self, depth: int, nbytes: int) -> str:
        """Return the line that is printed before the pass."""
        return (
            f"{self.name}: {self.rows.n:,} of {self.available:,} rows in "
            f"{len(self.rows.texts):,} texts ({self.rows.tokens:,} tokens), layers 0 to {depth}, "
            f"statistics {nbytes / 2**20:,.0f} MiB"
        )

    def describe(self) -> dict[str, Any]:
        """Return the record of the corpus for the provenance."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "texts": self.texts,
            "rows": self.available,
            "rows_used": self.rows.n,
            "truncated_texts": self.rows.truncated_texts,
            "truncated_words": self.rows.truncated_words,
            "dropped_words": self.rows.dropped_words,
        }


def known_measures(measures: Sequence[str] | None) -> list[str] | None:
    """Return the names without repetition, or None for the default ones.

    Raises:
        ValueError: an unknown name, or none.
    """
    if measures is None:
        return None
    names = measures.split(",") if isinstance(measures, str) else list(measures)
    names = [name.strip() for name in names]
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise ValueError(
            f"[compare] measures must be among {', '.join(MEASURES)}, got "
            f"{', '.join(unknown) or 'none'}; check the spelling."
        )
    return list(dict.fromkeys(names))


def prepare(
    corpus: Corpus,
    sides: Mapping[str, Checkpoint],
    named: list[str] | None,
    kind: RowKind,
    limit: int | None,
    seed: int,
    max_length: int | None,
) -> Task:
    """Encode a corpus, draw its rows and choose its measures.

    Args:
        corpus: texts.
        sides: the two checkpoints by role.
        named: measures asked for by name, which must all be possible; None for the default ones.
        kind: "words" or "tokens".
        limit: rows to draw, or None for all.
        seed: of the draw.
        max_length: tokens of a text, or None for what the models take.

    Raises:
        ValueError: different tokens, too few rows, a length or a measure that is not possible.
    """
    a, b = sides.values()
    require_same_tokens(a, b, [text.text for text in corpus.texts])
    limits = [bound for bound in (a.max_length, b.max_length) if bound is not None]
    if max_length is not None and limits and max_length > min(limits):
        raise ValueError(
            f"[compare] max_length must be at most what the models take, {min(limits)}, got "
            f"{max_length}; pass less."
        )
    special = a.tokenizer.num_special_tokens_to_add()
    if max_length is not None and max_length <= special:
        raise ValueError(
            f"[compare] max_length must leave room beside {special} special tokens, got "
            f"{max_length}; pass at least {special + 1}."
        )
    bound = max_length or min(limits, default=None)
    everything = encode(corpus.texts, a.tokenizer, kind, bound)
    _require_known_tokens(everything, sides)
    rows = draw(everything, limit, seed)
    if rows.n < 2:
        raise ValueError(
            f"[compare] rows must be at least 2, got {rows.n} {kind} in {corpus.name!r}; pass more "
            "text, or a larger limit or max_length."
        )
    notes = _notes_on(corpus.name, rows, bound)
    chosen = _choose(named, rows.n, sides, corpus.name, notes)
    return Task(
        corpus.name,
        corpus.source,
        corpus.fingerprint,
        len(corpus.texts),
        rows,
        everything.n,
        chosen,
        bound,
        notes,
    )


def _require_known_tokens(rows: Rows, sides: Mapping[str, Checkpoint]) -> None:
    largest = max(int(text.ids.max()) for text in rows.texts)
    for side in sides.values():
        known = len(side.encoder.get_input_embeddings().state_dict()["weight"])
        if largest >= known:
            raise ValueError(
                f"[compare] token ids must be below the {known} that {side.name!r} embeds, got "
                f"{largest}; pass the tokenizer that belongs to the model."
            )


def _notes_on(name: str, rows: Rows, bound: int | None) -> list[str]:
    notes = []
    if rows.truncated_texts:
        notes.append(
            f"{name}: {rows.truncated_texts} texts are longer than {bound} tokens and were cut, "
            f"which leaves out {rows.truncated_words} words."
        )
    if rows.dropped_words:
        notes.append(f"{name}: {rows.dropped_words} words have no token and were left out.")
    return notes


def _choose(
    named: list[str] | None,
    n: int,
    sides: Mapping[str, Checkpoint],
    corpus: str,
    notes: list[str],
) -> list[str]:
    """The measures that these rows allow; one that was asked for by name must be among them."""
    widths = [side.blocks.widths for side in sides.values()]
    d = max(max(width) for width in widths)
    chosen = named or [name for name, measure in MEASURES.items() if measure.default]
    short = [name for name in chosen if MEASURES[name].n_above_d and n <= d]
    few = [name for name in chosen if n < MEASURES[name].least_rows]
    unequal = [name for name in chosen if MEASURES[name].same_width and widths[0] != widths[1]]
    why = []
    if short:
        why.append(
            f"{', '.join(short)} need more rows than columns, got n={n} and d={d} on {corpus!r}; "
            "pass more text or a larger limit, or use svcca or cka_debiased"
        )
    if few:
        why.append(f"{', '.join(few)} need more rows, got n={n} on {corpus!r}; pass more text")
    if unequal:
        why.append(f"{', '.join(unequal)} need layers of the same width; use rsa or cka")
    if named and why:
        raise ValueError(f"[compare] measures must suit the rows: {'; '.join(why)}.")
    notes.extend(f"left out: {reason}." for reason in why)
    return [name for name in chosen if name not in {*short, *few, *unequal}]
