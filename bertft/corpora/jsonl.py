"""JSON lines: an object on each line."""

import json
from collections.abc import Iterator
from pathlib import Path

from bertft.corpora import read_lines
from bertft.corpora.hub import Record
from bertft.quiet import first_line


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
        except (ValueError, RecursionError) as error:  # numbers and nesting have limits too
            raise ValueError(
                f"[corpora] {path}, line {number} must be JSON, got {line[:40]!r} "
                f"({first_line(error)}); write one object per line."
            ) from error
        if not isinstance(fields, dict):
            raise ValueError(
                f"[corpora] {path}, line {number} must be an object, got {type(fields).__name__}; "
                "write one object per line."
            )
        yield Record(f"{path}, line {number}", number, fields)
