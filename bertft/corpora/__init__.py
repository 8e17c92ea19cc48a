"""Texts with their words, from files or from memory.

Owns what a word is: what the file says, else a run of non-space characters, the same for every
tokenizer. Readers of one format each are beside this file.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertft.corpora.hub import Record

PLAIN = (".txt", ".conllu")
WITH_COLUMNS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
ENDINGS = (*PLAIN, *WITH_COLUMNS)
STANDARD_INPUT = "-"
Item = str | Sequence[str] | Mapping[str, object] | os.PathLike[str]
Data = str | os.PathLike[str] | Iterable[Item]


@dataclass(frozen=True)
class Text:
    """A text and the half-open character spans of its words; of a pair, the second text too."""

    text: str
    words: tuple[tuple[int, int], ...]
    second: "Text | None" = None

    @classmethod
    def of(cls, text: str) -> "Text":
        """Return a text whose words are its runs of non-space characters."""
        return cls(text, tuple(match.span() for match in re.finditer(r"\S+", text)))

    @classmethod
    def of_words(cls, words: Iterable[str]) -> "Text":
        """Return the words joined by single spaces."""
        spans, start = [], 0
        words = list(words)
        for word in words:
            spans.append((start, start + len(word)))
            start += len(word) + 1
        return cls(" ".join(words), tuple(spans))

    @property
    def segments(self) -> "tuple[Text, ...]":
        """The text, or both texts of a pair."""
        return (self,) if self.second is None else (self, self.second)


@dataclass(frozen=True)
class Corpus:
    """Texts under a name; `source` is a path, or "memory".

    Those without a word, and pairs of which either has none, are left out; `empty` counts them.
    """

    name: str
    source: str
    texts: tuple[Text, ...]
    fingerprint: str
    empty: int = 0

    @classmethod
    def of(cls, name: str, texts: Iterable[Text], source: str = "memory") -> "Corpus":
        """Return a corpus with its fingerprint.

        Raises:
            ValueError: no text, none with a word, or one with half of a character.
        """
        kept, empty = [], 0
        digest = hashlib.blake2b(digest_size=16)
        for number, text in enumerate(texts, start=1):
            if not all(is_whole(part.text) for part in text.segments):
                raise ValueError(
                    f"[corpora] {name}, text {number} must have whole characters, got half of a "
                    "surrogate pair; mend it."
                )
            if not all(part.words for part in text.segments):
                empty += 1
                continue
            kept.append(text)
            parts = [(part.text, part.words) for part in text.segments]
            shown = repr(parts[0] if text.second is None else parts)
            digest.update(shown.encode("utf-8"))
        if not kept:
            raise ValueError(
                f"[corpora] {name} must hold at least one text with a word, got none in "
                f"{source}; check that the file is not empty."
            )
        return cls(name, source, tuple(kept), digest.hexdigest(), empty)


def is_whole(text: str) -> bool:
    """Return whether a text is of whole characters, without half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def corpora_of(
    data: Data | Mapping[str, Data], column: str | Sequence[str] | None = None
) -> list[Corpus]:
    """Return one corpus for each file, named collection or iterable of texts.

    Args:
        data: what `read` reads; an iterable of texts for one corpus (strings, sequences of words,
            or mappings of columns to values, as data sets of `datasets` yield them, streamed or
            not); a data frame of pandas; an iterable of `Path` objects for one corpus each; or a
            mapping of names to any of these.
        column: of data with columns, that with the text, or the two with a pair of texts (joined by
            a comma, or a sequence); by default `text`, or `premise` and `hypothesis`, and others as
            `fields` has them.

    Raises:
        FileNotFoundError: no such file or data set.
        ValueError: no corpus or an empty one, two of one name, a file that its format does not
            allow, or a column that is not there.
        TypeError: anything else, or strings that are paths where texts are expected.
    """
    columns = _columns(column)
    if isinstance(data, Mapping):
        if not data:
            raise ValueError("[corpora] data must be a corpus or more, got none; pass some texts.")
        corpora = [_corpus(name, source, columns) for name, source in data.items()]
    elif isinstance(data, (str, os.PathLike)):
        corpora = [read(data, columns=columns)]
    elif not isinstance(data, Iterable) or _known_columns(data) is not None:
        corpora = [_corpus("texts", data, columns)]
    else:
        items = list(data)
        paths = [Path(item) for item in items if isinstance(item, os.PathLike)]
        if items and len(paths) == len(items):
            corpora = _read_all(paths, columns)
        else:
            corpora = [_corpus("texts", items, columns)]
    return corpora


def read(
    path: str | os.PathLike[str], name: str | None = None, columns: Sequence[str] = ()
) -> Corpus:
    """Read a file, a data set or standard input.

    Args:
        path: a `.txt` (a text per line), `.conllu`, `.jsonl`, `.csv`, `.tsv`, `.parquet` or SQuAD
            `.json` file; a data set as `corpora.hub.records` has it, or a folder of
            `Dataset.save_to_disk`; or "-" for standard input, a text per line.
        name: of the corpus; by default that of the file.
        columns: of data with columns; see `corpora_of`.

    Raises:
        FileNotFoundError: no such file or data set.
        ValueError: another ending, not UTF-8, a line that its format does not allow (numbered), or
            a column that is not there.
    """
    from bertft.corpora import conllu, hub, plain
    from bertft.corpora.fields import texts_of

    path = Path(path).expanduser()
    if columns and (str(path) == STANDARD_INPUT or (path.is_file() and path.suffix in PLAIN)):
        raise ValueError(
            f"[corpora] column must be of data with columns ({', '.join(WITH_COLUMNS)}), got "
            f"{', '.join(columns)} for {str(path)!r}; leave it out."
        )
    if str(path) == STANDARD_INPUT:
        if sys.stdin is None:
            raise ValueError(
                "[corpora] standard input must be open, got none; pipe texts into it, or pass a "
                "file."
            )
        lines = _decoded(sys.stdin.buffer.read(), "standard input").split("\n")
        return Corpus.of(name or _name_of(path), plain.texts_in(lines), "standard input")
    texts: Iterable[Text]
    if path.is_file() and path.suffix in PLAIN:
        texts = (plain if path.suffix == ".txt" else conllu).read(path)
    else:
        texts = texts_of(hub.records(path, partial(_records, columns=columns)), columns)
    return Corpus.of(name or _name_of(path), texts, str(path))


def _records(path: Path, columns: Sequence[str]) -> "Iterator[Record]":
    """The records of a file with columns."""
    from bertft.corpora import jsonl, squad, tables

    readers: dict[str, Callable[[Path], Iterator[Record]]] = {
        ".jsonl": jsonl.read_objects,
        ".json": squad.read,
        ".csv": tables.read_csv,
        ".tsv": tables.read_tsv,
        ".parquet": partial(tables.read_parquet, columns=columns),
    }
    if path.suffix not in readers:
        raise ValueError(
            f"[corpora] data must be a {', '.join(ENDINGS)} file, got {str(path)!r}; convert it, "
            "or pass texts from Python."
        )
    return readers[path.suffix](path)


def read_text(path: Path) -> str:
    """Return a UTF-8 file without a byte-order mark and with plain line ends.

    Raises:
        ValueError: bytes that are not UTF-8 (the offset is in the message).
    """
    return _decoded(path.read_bytes(), str(path))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file without their ends; see `read_text`."""
    return read_text(path).split("\n")


def _decoded(raw: bytes, source: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from behind a byte-order mark.
        offset = error.start + len(raw) - len(error.object)
        raise ValueError(
            f"[corpora] {source} must be UTF-8, got byte {error.object[error.start]:#04x} at "
            f"offset {offset}; convert it."
        ) from error
    return text.replace("\r\n", "\n")


def _columns(column: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of one column or of two."""
    if column is None:
        return ()
    if isinstance(column, str):
        names = [name.strip() for name in column.split(",")]
    else:
        names = [str(name) for name in column] if isinstance(column, Iterable) else []
    if len(names) not in (1, 2) or not all(names):
        raise ValueError(
            f"[corpora] column must be the name of one column, or of two for pairs of texts, got "
            f"{column!r}; pass it as in 'review' or 'premise,hypothesis'."
        )
    return tuple(names)


def _read_all(paths: list[Path], columns: Sequence[str]) -> list[Corpus]:
    """One corpus per file, named by the shortest end of its path that tells it from the others."""
    short = [_name_of(path) for path in paths]
    names = [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, paths, strict=True)
    ]
    if len(set(names)) < len(names):
        raise ValueError(
            f"[corpora] data must be different files, got {[str(path) for path in paths]}; pass "
            "each once."
        )
    return [read(path, name, columns) for path, name in zip(paths, names, strict=True)]


def _name_of(path: Path) -> str:
    return "stdin" if str(path) == STANDARD_INPUT else path.stem


def _corpus(name: str, source: object, columns: Sequence[str]) -> Corpus:
    from bertft.corpora import hub
    from bertft.corpora.fields import require_columns

    if isinstance(source, (str, os.PathLike)):
        return read(source, name, columns)
    if not isinstance(source, Iterable):
        raise TypeError(
            f"[corpora] {name} must be a path or an iterable of texts, got "
            f"{type(source).__name__}; pass a list of strings."
        )
    items: Iterable[object] = source
    if known := _known_columns(source):
        require_columns(name, columns, known)
        items = hub.rows_of(source, columns)
    texts = (_text(name, n, item, columns) for n, item in enumerate(items, start=1))
    return Corpus.of(name, texts)


def _known_columns(data: object) -> list[str] | None:
    """The columns of a data set or a data frame; None of anything else, or where none are known."""
    columns = getattr(data, "column_names", None)
    if columns is None and hasattr(data, "iterrows"):
        columns = getattr(data, "columns", None)
    return None if columns is None else [str(column) for column in columns]


def _text(name: str, number: int, item: object, columns: Sequence[str]) -> Text:
    from bertft.corpora.fields import texts_of
    from bertft.corpora.hub import Record

    if isinstance(item, Mapping):
        return next(texts_of([Record(f"{name}, row {number}", number, item)], columns))
    if columns:
        raise ValueError(
            f"[corpora] column must be of data with columns, got {', '.join(columns)} for the "
            f"texts of {name}; leave it out."
        )
    if isinstance(item, str):
        if number == 1 and _is_data_file(item):
            raise TypeError(
                f"[corpora] {name} must be texts, got paths such as {item!r}; pass Path objects "
                "or a mapping of names to paths."
            )
        return Text.of(item)
    if isinstance(item, Sequence) and all(isinstance(word, str) for word in item):
        if len(item) == 2 and all(len(word.split()) > 1 for word in item):
            raise ValueError(
                f"[corpora] {name} must hold words where it holds sequences, got two texts in "
                f"number {number}; pass a pair as {{'premise': ..., 'hypothesis': ...}}."
            )
        return Text.of_words(item)
    raise TypeError(
        f"[corpora] {name} must hold strings, sequences of words or mappings of columns, got "
        f"{type(item).__name__}; convert each text."
    )


def _is_data_file(text: str) -> bool:
    return text.endswith(ENDINGS) and os.path.isfile(text)
