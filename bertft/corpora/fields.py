"""Which fields of an example are its text, or its pair of texts.

Owns the names that they have in the wild. Reading examples is left to the readers of each format.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bertft.corpora import Text
from bertft.corpora.hub import Record

SINGLE = ("text", "sentence")
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question", "context"),
    ("question1", "question2"),
)


def texts_of(records: Iterable[Record], columns: Sequence[str] = ()) -> Iterator[Text]:
    """Yield the text of each example.

    Args:
        records: the examples.
        columns: the field that has the text, or the two that have a pair of texts; by default
            those of `SINGLE` and `PAIRS` that the example has.

    Raises:
        ValueError: a field that is not there or no text (with its place and the fields there are).
    """
    for record in records:
        names = columns or _names_in(record)
        parts = [_text(record, name) for name in names]
        yield parts[0] if len(parts) == 1 else replace(parts[0], second=parts[1])


def require_columns(source: str, columns: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names of columns that data do not have.

    Raises:
        ValueError: the first of them, with the names that exist.
    """
    for name in columns:
        if name not in known:
            raise ValueError(
                f"[corpora] {source} must have a column {name!r}, got the columns "
                f"{', '.join(known)}; pass one of these as column (--column)."
            )


def _names_in(record: Record) -> tuple[str, ...]:
    for name in SINGLE:
        if name in record.fields:
            return (name,)
    for first, second in PAIRS:
        if first in record.fields and second in record.fields:
            return first, second
    for one, other in (*PAIRS, *(pair[::-1] for pair in PAIRS)):
        if one in record.fields:
            raise ValueError(
                f"[corpora] {record.where} must have a {other!r} beside its {one!r}, got fields "
                f"{sorted(record.fields)}; add it, or name the text as column (--column)."
            )
    raise ValueError(
        f"[corpora] {record.where} must have a 'text', or a pair such as 'premise' and "
        f"'hypothesis', got fields {sorted(record.fields)}; name the text as column (--column)."
    )


def _text(record: Record, name: str) -> Text:
    """A text, or a list of words; what is null has no word."""
    require_columns(record.where, [name], list(record.fields))
    value: Any = record.fields[name]
    if value is None:
        return Text.of("")
    if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return Text.of_words(value)
    return Text.of(record.text(name))
