"""Plain text: a text per line, blank lines left out."""

from collections.abc import Iterator
from pathlib import Path

from bertft.corpora import Text, read_lines


def read(path: Path) -> Iterator[Text]:
    """Yield the texts of a `.txt` file."""
    for line in read_lines(path):
        yield Text.of(line)
