"""Plain text: a text per line; blank lines are empty texts."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from bertft.corpora import Text, read_lines


def read(path: Path) -> Iterator[Text]:
    """Yield the texts of a `.txt` file."""
    return texts_in(read_lines(path))


def texts_in(lines: Iterable[str]) -> Iterator[Text]:
    """Yield the text of each line; what follows the last line's end is none."""
    *whole, rest = lines
    for line in whole:
        yield Text.of(line)
    if rest:
        yield Text.of(rest)
