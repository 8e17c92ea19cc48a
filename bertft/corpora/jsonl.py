"""JSON lines: an object on each line, and texts in its field `text`."""

import json
from collections.abc import Iterator
from pathlib import Path

from bertft.corpora import Text, read_lines
from bertft.corpora.hub import Record


def read(path: Path) -> Iterator[Text]:
    """Yield the texts of a `.jsonl` file.

    Raises:
        ValueError: a line that is no JSON object with a string `text` (numbered).
    """
    for record in read_objects(path):
        text = record.fields.get("text")
        if not isinstance(text, str):
            raise ValueError(
                f"[corpora] {record.where} must be an object with a string 'text', got "
                f"{sorted(record.fields)}; rename the field."
            )
        yield Text.of(text)


def read_objects(path: Path) -> Iterator[Record]:
    """Yield the objects of a file with one on each line; blank lines are left out.

    Raises:
        ValueError: a line that is no JSON object (numbered).
    """
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"[corpora] {path}, line {number} must be JSON, got {line[:40]!r} ({error.msg}); "
                "write one object per line."
            ) from error
        if not isinstance(fields, dict):
            raise ValueError(
                f"[corpora] {path}, line {number} must be an object, got {type(fields).__name__}; "
                "write one object per line."
            )
        yield Record(f"{path}, line {number}", number, fields)
