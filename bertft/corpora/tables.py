"""Tables in files: CSV, tab-separated values and Parquet, a record for each row."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bertft.corpora import read_lines, read_text
from bertft.corpora.fields import require_columns
from bertft.corpora.hub import Record

_BATCH = 1000


def read_csv(path: Path) -> Iterator[Record]:
    """Yield the rows of a CSV file with a header, as RFC 4180 quotes them; blank lines are none.

    Raises:
        ValueError: a row of another number of fields (numbered), quotes that do not close, or a
            header with a name twice.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    with _fields_of_any_size():
        try:
            names = next(rows, [])
            _require_names(path, names)
            for row in rows:
                if not row:
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(row) != len(names):
                    raise ValueError(
                        f"[corpora] {where} must have {len(names)} fields as its header, got "
                        f"{len(row)}; mend the line, or quote fields with commas."
                    )
                yield Record(where, rows.line_num, dict(zip(names, row, strict=True)))
        except csv.Error as error:
            raise ValueError(
                f"[corpora] {path}, line {rows.line_num} must be CSV, got {error}; mend its quotes."
            ) from error


def read_tsv(path: Path) -> Iterator[Record]:
    """Yield the rows of a tab-separated file with a header; quotes are characters like others.

    Raises:
        ValueError: a line with another number of columns (numbered), or a header with a name twice.
    """
    header, *lines = read_lines(path)
    names = header.split("\t")
    _require_names(path, names)
    for number, line in enumerate(lines, start=2):
        columns = line.split("\t")
        if not line.strip():
            continue
        if len(columns) != len(names):
            raise ValueError(
                f"[corpora] {path}, line {number} must have {len(names)} tab-separated columns as "
                f"its header, got {len(columns)}; mend the line."
            )
        yield Record(f"{path}, line {number}", number, dict(zip(names, columns, strict=True)))


def read_parquet(path: Path, columns: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the rows of a Parquet file, with some of its columns or all, a batch at a time.

    Raises:
        ValueError: a file that is none, or without one of the columns (with the names that exist).
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            require_columns(str(path), columns, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(_BATCH, columns=list(columns) or None):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"{path}, row {number}", number, row)
    except ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"[corpora] {path} must be a whole Parquet file, got: {reason}; write it again."
        ) from error


def _require_names(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"[corpora] {path} must have a header with each name once, got {', '.join(twice)} "
            "again; rename the columns."
        )


@contextmanager
def _fields_of_any_size() -> Iterator[None]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
