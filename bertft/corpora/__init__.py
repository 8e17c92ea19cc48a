"""Texts with their words, from files or from memory.

Owns what a word is: what the file says, else a run of non-space characters, the same for every
tokenizer. Readers of one format each are beside this file.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ENDINGS = (".txt", ".conllu", ".jsonl")
Data = str | os.PathLike[str] | Iterable[str | Sequence[str] | os.PathLike[str]]


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

    @classmethod
    def of_pair(cls, first: str, second: str) -> "Text":
        """Return two texts that are one input, such as a premise and a hypothesis."""
        return replace(cls.of(first), second=cls.of(second))

    @property
    def segments(self) -> "tuple[Text, ...]":
        """The text, or both texts of a pair."""
        return (self,) if self.second is None else (self, self.second)


@dataclass(frozen=True)
class Corpus:
    """Texts under a name; `source` is a path, or "memory"."""

    name: str
    source: str
    texts: tuple[Text, ...]
    fingerprint: str

    @classmethod
    def of(cls, name: str, texts: Iterable[Text], source: str = "memory") -> "Corpus":
        """Return a corpus with its fingerprint.

        Raises:
            ValueError: no text, or none with a word.
        """
        kept = tuple(text for text in texts if text.words)
        if not kept:
            raise ValueError(
                f"[corpora] {name} must hold at least one text with a word, got none in "
                f"{source}; check that the file is not empty."
            )
        digest = hashlib.blake2b(digest_size=16)
        for text in kept:
            digest.update(repr((text.text, text.words)).encode("utf-8", "surrogatepass"))
        return cls(name, source, kept, digest.hexdigest())


def corpora_of(data: Data | Mapping[str, Data]) -> list[Corpus]:
    """Return one corpus for each file, named collection or iterable of texts.

    Args:
        data: a path; an iterable of texts (strings, or sequences of words) for one corpus; an
            iterable of `Path` objects for one corpus each; or a mapping of names to any of these.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an empty corpus, two of one name, or a file that its format does not allow.
        TypeError: anything else, or strings that are paths where texts are expected.
    """
    if isinstance(data, Mapping):
        corpora = [_corpus(name, source) for name, source in data.items()]
    elif isinstance(data, (str, os.PathLike)):
        corpora = [read(data)]
    else:
        items = list(data)
        paths = [Path(item) for item in items if isinstance(item, os.PathLike)]
        if items and len(paths) == len(items):
            corpora = _read_all(paths)
        else:
            corpora = [_corpus("texts", items)]
    return corpora


def read(path: str | os.PathLike[str], name: str | None = None) -> Corpus:
    """Read a `.txt` (a text per line), `.conllu` or `.jsonl` (objects with `text`) file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, not UTF-8, or a line that its format does not allow (numbered).
    """
    from bertft.corpora import conllu, jsonl, plain

    readers = {".txt": plain.read, ".conllu": conllu.read, ".jsonl": jsonl.read}
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"[corpora] data must be an existing file, got {str(path)!r}; check the path."
        )
    if path.suffix not in readers:
        raise ValueError(
            f"[corpora] data must be a {', '.join(readers)} file, got {str(path)!r}; convert it, "
            "or pass texts from Python."
        )
    return Corpus.of(name or path.stem, readers[path.suffix](path), str(path))


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file without their ends.

    Raises:
        ValueError: bytes that are not UTF-8 (the offset is in the message).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"[corpora] {path} must be UTF-8, got byte {error.object[error.start]:#04x} at offset "
            f"{error.start}; convert it."
        ) from error
    return text.replace("\r\n", "\n").split("\n")


def _read_all(paths: list[Path]) -> list[Corpus]:
    """One corpus per file, named by the shortest end of its path that tells it from the others."""
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(
            f"[corpora] data must be different files, got {[str(path) for path in paths]}; pass "
            "each once."
        )
    return [read(path, name) for path, name in zip(paths, names, strict=True)]


def _corpus(name: str, source: object) -> Corpus:
    if isinstance(source, (str, os.PathLike)):
        return read(source, name)
    if not isinstance(source, Iterable):
        raise TypeError(
            f"[corpora] {name} must be a path or an iterable of texts, got "
            f"{type(source).__name__}; pass a list of strings."
        )
    items = list(source)
    if items and all(isinstance(item, str) and _is_data_file(item) for item in items):
        raise TypeError(
            f"[corpora] {name} must be texts, got paths such as {items[0]!r}; pass Path objects or "
            "a mapping of names to paths."
        )
    return Corpus.of(name, [_text(name, item) for item in items])


def _text(name: str, item: object) -> Text:
    if isinstance(item, str):
        return Text.of(item)
    if isinstance(item, Sequence) and all(isinstance(word, str) for word in item):
        return Text.of_words(item)
    raise TypeError(
        f"[corpora] {name} must hold strings or sequences of words, got {type(item).__name__}; "
        "convert each text."
    )


def _is_data_file(text: str) -> bool:
    return text.endswith(ENDINGS) and os.path.isfile(text)
