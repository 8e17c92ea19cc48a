"""JSON lines: objects with a `text`."""

import json
from collections.abc import Iterator
from pathlib import Path

from bertft.corpora import Text, read_lines


def read(path: Path) -> Iterator[Text]:
    """Yield the texts of a `.jsonl` file.

    Raises:
        ValueError: a line that is no JSON object with a string `text` (numbered).
    """
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"[corpora] {path}, line {number} must be JSON, got {line[:40]!r} ({error.msg}); "
                "write one object per line."
            ) from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            found = sorted(record) if isinstance(record, dict) else type(record).__name__
            raise ValueError(
                f"[corpora] {path}, line {number} must be an object with a string 'text', got "
                f"{found}; rename the field."
            )
        yield Text.of(record["text"])
