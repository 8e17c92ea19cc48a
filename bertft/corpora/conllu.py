"""CoNLL-U: words as annotated; multi-word lines and empty nodes are no words."""

import re
from collections.abc import Iterator
from pathlib import Path

import conllu
from conllu.exceptions import ParseException

from bertft.corpora import Text, read_lines

COLUMNS = 10


def read(path: Path) -> Iterator[Text]:
    """Yield the sentences of a `.conllu` file as words joined by single spaces.

    Raises:
        ValueError: a line that the format does not allow (numbered).
    """
    for first, lines in _sentences(path):
        try:
            (sentence,) = conllu.parse("\n".join(lines), fields=["id", "form"])
        except (ParseException, ValueError) as error:
            raise ValueError(
                f"[corpora] {path}, lines {first} to {first + len(lines) - 1} must be a CoNLL-U "
                f"sentence, got {error}; mend it."
            ) from error
        yield Text.of_words(token["form"] for token in sentence if isinstance(token["id"], int))


def _sentences(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and token lines of each sentence, with their columns checked."""
    lines: list[str] = []
    for number, line in enumerate([*read_lines(path), ""], start=1):
        if not line.strip() and lines:
            yield number - len(lines), lines
            lines = []
        elif line.strip() and not line.startswith("#"):
            columns = line.split("\t")
            if len(columns) != COLUMNS:
                raise ValueError(
                    f"[corpora] {path}, line {number} must have {COLUMNS} tab-separated columns, "
                    f"got {len(columns)}; mend the line."
                )
            if not re.fullmatch(r"\d+([-.]\d+)?", columns[0]) or not columns[1].strip():
                raise ValueError(
                    f"[corpora] {path}, line {number} must have an id and a form, got "
                    f"{columns[0]!r} and {columns[1]!r}; mend the line."
                )
            lines.append("\t".join(columns[:2]))
