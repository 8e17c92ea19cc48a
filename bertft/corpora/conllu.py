"""CoNLL-U: words and dependency trees as annotated; multi-word lines and empty nodes are no words.

Owns what the format allows. Which trees and labels a parser can learn is for its training to say.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

from bertft.corpora import Text, read_lines
from bertft.files import write_text

COLUMNS = 10
_ID, _FORM, _UPOS, _XPOS, _HEAD, _DEPREL = 0, 1, 3, 4, 6, 7
_IDS = re.compile(r"\d+([-.]\d+)?")
_SENT_ID = re.compile(r"#\s*sent_id\s*=\s*(.*?)\s*")


@dataclass(frozen=True)
class Tree:
    """A sentence and its dependency tree.

    Attributes:
        words: the forms, in order.
        tags: the universal part of speech (UPOS) of each word as written, "_" where there is none.
        heads: the number of each word's head, counted from 1; 0 for the root.
        labels: the relation of each word to its head as written, such as "nmod:poss".
        id: the sentence's `sent_id`, or "".
        line: number of the sentence's first line with columns.
        xpos: the treebank's own part of speech (XPOS) of each word as written; none by default.
        source: path of the file, or "" for a tree that is from none.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    labels: tuple[str, ...]
    id: str
    line: int
    xpos: tuple[str, ...] = ()
    # A treebank is the same wherever it lies, and fingerprints of examples are of what they show.
    source: str = field(default="", repr=False, compare=False)

    @property
    def where(self) -> str:
        """The sentence's file and its place there, for errors."""
        return _place(self.source, self.line, self.id)


def read(path: Path) -> Iterator[Text]:
    """Yield the sentences of a `.conllu` file as words joined by single spaces.

    Raises:
        ValueError: a line that the format does not allow (numbered).
    """
    for sentence in _sentences(path):
        yield Text.of_words(columns[_FORM] for _, columns in sentence.words)


def read_trees(path: str | os.PathLike[str]) -> list[Tree]:
    """Read the dependency trees of a CoNLL-U file, in its order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no sentence, a line that the format does not allow, or a sentence that is no
            tree with one root and a relation for each word (with its line and `sent_id`).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"[corpora] treebank must be an existing CoNLL-U file, got {str(path)!r}; check the "
            "path."
        )
    trees = [_tree(path, sentence) for sentence in _sentences(path)]
    if not trees:
        raise ValueError(
            f"[corpora] {path} must hold at least one sentence, got none; check that the file is "
            "not empty."
        )
    return trees


def require_tags(trees: Iterable[Tree]) -> None:
    """Refuse trees with a word that has no part of speech.

    Raises:
        ValueError: one has none (with the file and the line of its sentence).
    """
    for tree in trees:
        for word, tag in zip(tree.words, tree.tags, strict=True):
            if not is_given(tag):
                raise ValueError(
                    f"[corpora] {tree.where} must have a part of speech for each word, "
                    f"got {tag!r} for {word!r}; fill the column UPOS."
                )


def write_trees(trees: Iterable[Tree], path: str | os.PathLike[str]) -> None:
    """Write trees as a CoNLL-U file; what a tree does not tell is "_".

    Raises:
        ValueError: a field with a tab or the end of a line in it.
    """
    blocks = []
    for tree in trees:
        lines = [f"# sent_id = {tree.id}"] if tree.id else []
        columns = (tree.words, tree.tags, tree.xpos or ("_",) * len(tree.words))
        rows = zip(*columns, tree.heads, tree.labels, strict=True)
        for number, (word, tag, xpos, head, label) in enumerate(rows, start=1):
            fields = (number, word, "_", tag, xpos, "_", head, label, "_", "_")
            line = "\t".join(map(str, fields))
            if line.count("\t") != COLUMNS - 1 or "\n" in line:
                raise ValueError(
                    f"[corpora] fields of a word must be without tabs and ends of lines, got "
                    f"{word!r} ({tag!r}, {xpos!r}, {label!r}); replace them."
                )
            lines.append(line)
        blocks.append("\n".join(lines) + "\n\n")
    write_text(Path(path), "".join(blocks))


def check_tree(tree: Tree, where: str) -> None:
    """Refuse a sentence whose columns differ in length, or whose heads are no tree with one root.

    Args:
        tree: the sentence.
        where: its place, for errors.

    Raises:
        TypeError: a head that is no integer.
        ValueError: anything else of these.
    """
    columns = {"words": tree.words, "tags": tree.tags, "heads": tree.heads, "labels": tree.labels}
    sizes = {name: len(column) for name, column in columns.items()}
    if len({*sizes.values(), len(tree.xpos or tree.words)}) > 1:
        raise ValueError(
            f"[corpora] {where} must have a tag, a head and a label for each word, got "
            f"{', '.join(f'{size} {name}' for name, size in sizes.items())} and {len(tree.xpos)} "
            "xpos; give each word its own."
        )
    if odd := [head for head in tree.heads if not isinstance(head, Integral)]:
        raise TypeError(
            f"[corpora] {where} must have integers for heads, got {odd[0]!r}; convert them."
        )
    _check_heads(tree.heads, where)


def universal(label: str) -> str:
    """Return a relation without its subtype.

    >>> universal("nmod:poss")
    'nmod'
    """
    return label.partition(":")[0]


def is_given(field: str) -> bool:
    """Return if a column of a word holds anything.

    >>> [is_given(field) for field in ("NOUN", "_", " ")]
    [True, False, False]
    """
    return field.strip() not in ("", "_")


class _Sentence(NamedTuple):
    """The columns of each line that is no comment, numbered by line."""

    id: str
    line: int
    rows: list[tuple[int, list[str]]]

    @property
    def words(self) -> list[tuple[int, list[str]]]:
        """The lines that are words."""
        return [row for row in self.rows if row[1][_ID].isdecimal()]

    def at(self, path: Path, line: int) -> str:
        """Where an error is, in words."""
        return _place(str(path), line, self.id)


def _place(source: str, line: int, name: str) -> str:
    """A line of a sentence in words, with what is known of it."""
    place = f"{source}, line {line}" if source else f"line {line}"
    return f"{place} (sentence {name!r})" if name else place


def _sentences(path: Path) -> Iterator[_Sentence]:
    """Sentences with a line or more, their columns checked."""
    name, rows = "", []
    for number, line in enumerate([*read_lines(path), ""], start=1):
        if line.startswith("#"):
            named = _SENT_ID.fullmatch(line)
            name = named[1] if named else name
        elif line.strip():
            rows.append((number, _columns(path, number, line)))
        else:
            if rows:
                yield _Sentence(name, rows[0][0], rows)
            name, rows = "", []


def _columns(path: Path, number: int, line: str) -> list[str]:
    columns = line.split("\t")
    if len(columns) != COLUMNS:
        raise ValueError(
            f"[corpora] {path}, line {number} must have {COLUMNS} tab-separated columns, got "
            f"{len(columns)}; mend the line."
        )
    if not _IDS.fullmatch(columns[_ID]) or not columns[_FORM].strip():
        raise ValueError(
            f"[corpora] {path}, line {number} must have an id and a form, got {columns[_ID]!r} and "
            f"{columns[_FORM]!r}; mend the line."
        )
    return columns


def _tree(path: Path, sentence: _Sentence) -> Tree:
    words = sentence.words
    numbers = {str(number): number for number in range(len(words) + 1)}
    heads, labels = [], []
    for expected, (line, columns) in enumerate(words, start=1):
        head, label = columns[_HEAD], columns[_DEPREL]
        if columns[_ID] != str(expected):
            raise ValueError(
                f"[corpora] {sentence.at(path, line)} must have the word id {expected}, got "
                f"{columns[_ID]}; number the words from 1."
            )
        if head not in numbers:
            raise ValueError(
                f"[corpora] {sentence.at(path, line)} must have a head from 0 to {len(words)}, "
                f"got {head!r}; mend the line."
            )
        if not is_given(label):
            raise ValueError(
                f"[corpora] {sentence.at(path, line)} must have a relation to its head, got "
                f"{label!r}; fill the column DEPREL."
            )
        heads.append(numbers[head])
        labels.append(label)
    _check_tokens(path, sentence)
    forms, tags, xpos = (
        tuple(columns[place] for _, columns in words) for place in (_FORM, _UPOS, _XPOS)
    )
    tree = Tree(
        forms, tags, tuple(heads), tuple(labels), sentence.id, sentence.line, xpos, str(path)
    )
    check_tree(tree, tree.where)
    return tree


def _check_tokens(path: Path, sentence: _Sentence) -> None:
    """Refuse multi-word tokens and empty nodes that are not numbered by the words around them."""
    size, words, covered, empty = len(sentence.words), 0, 0, 0
    for line, columns in sentence.rows:
        first, _, last = columns[_ID].partition("-")
        if last:
            if not covered <= words < int(last) <= size or int(first) != words + 1:
                raise ValueError(
                    f"[corpora] {sentence.at(path, line)} must have a multi-word token from word "
                    f"{words + 1} to one of the {size}, and no other there, got {columns[_ID]}; "
                    "mend the line."
                )
            covered = int(last)
        elif first.isdecimal():
            words, empty = words + 1, 0
        else:
            empty += 1
            if first != f"{words}.{empty}":
                raise ValueError(
                    f"[corpora] {sentence.at(path, line)} must have the empty node "
                    f"{words}.{empty}, got {first}; number it by the word before it."
                )


def _check_heads(heads: Sequence[int], where: str) -> None:
    roots = [word for word, head in enumerate(heads, start=1) if head == 0]
    if len(roots) != 1:
        raise ValueError(
            f"[corpora] {where} must have one root, got {len(roots)} words with head 0 {roots}; "
            "mend the sentence."
        )
    if outside := [head for head in heads if not 0 <= head <= len(heads)]:
        raise ValueError(
            f"[corpora] {where} must have heads from 0 to {len(heads)}, got {outside[0]}; number "
            "the words from 1."
        )
    # The walk from each word stops at words that an earlier walk passed on its way to the root.
    seen = [roots[0], *[0] * len(heads)]
    for start in range(1, len(heads) + 1):
        word = start
        while not seen[word]:
            seen[word] = start
            word = heads[word - 1]
        if seen[word] == start and word:
            raise ValueError(
                f"[corpora] {where} must be a tree, got a cycle through word {word}; mend the "
                "sentence."
            )
