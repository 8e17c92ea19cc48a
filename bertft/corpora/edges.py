"""Edge probing: what is said of one or two spans of words, as jiant's JSON lines have it.

Owns what a record may hold. Which pieces of a tokenizer a span covers is left to `probing.spans`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertft.corpora import hub
from bertft.corpora.conllu import Tree, require_tags
from bertft.corpora.jsonl import read_objects

Span = tuple[int, int]


@dataclass(frozen=True)
class Target:
    """One or two half-open spans of words, and what is said of them.

    Attributes:
        spans: first word and the one after the last, counted from 0.
        labels: one label or more, each once.
    """

    spans: tuple[Span, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """A sentence and its targets; `words` are those that its text has between single spaces."""

    words: tuple[str, ...]
    targets: tuple[Target, ...]


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read the edge-probing records of a file, in its order.

    A line is `{"text": "words joined by single spaces", "targets": [{"span1": [i, j], "span2":
    [i, j], "label": "x"}]}`, with half-open spans of words and with `label` a string or a list of
    strings. `span2` is in all targets of a file or in none; other fields are ignored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no target, or a line that does not fit (numbered).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"[corpora] records must be an existing JSON lines file, got {str(path)!r}; check the "
            "path."
        )
    return checked(str(path), ((line.where, _record(line)) for line in read_objects(path)))


def from_tags(trees: Sequence[Tree]) -> list[Record]:
    """Return a target for each word: the word alone, and its part of speech (UPOS).

    Raises:
        ValueError: a word without a tag (with the file and the line of its sentence).
    """
    require_tags(trees)
    return [tagged(tree.words, tree.tags) for tree in trees]


def tagged(words: tuple[str, ...], tags: Sequence[str]) -> Record:
    """Return a record with a target for each word, the word alone and its tag."""
    return Record(words, tuple(Target(((i, i + 1),), (tag,)) for i, tag in enumerate(tags)))


def from_arcs(trees: Sequence[Tree]) -> list[Record]:
    """Return a target for each word: the word, its head, and the relation with its subtype.

    The root attaches to itself.
    """
    records = []
    for tree in trees:
        arcs = enumerate(zip(tree.heads, tree.labels, strict=True))
        targets = (
            Target(((i, i + 1), (head - 1, head) if head else (i, i + 1)), (label,))
            for i, (head, label) in arcs
        )
        records.append(Record(tree.words, tuple(targets)))
    return records


def checked(source: str, located: Iterable[tuple[str, Record]]) -> list[Record]:
    """Return records whose targets suit their words and each other.

    Args:
        source: where they are from, for errors.
        located: where each record is, for errors, and the record.

    Raises:
        ValueError: no target; a span that is empty or out of range; no label, or one twice; or
            targets with one span beside targets with two.
    """
    records: list[Record] = []
    spans = 0
    for where, record in located:
        for number, target in enumerate(record.targets, start=1):
            spans = spans or len(target.spans)
            _check(f"{where} (target {number})", len(record.words), target, spans)
        records.append(record)
    if not spans:
        raise ValueError(
            f"[corpora] {source} must hold at least one target, got none in {len(records)} "
            "sentences; pass another file."
        )
    return records


def _check(where: str, words: int, target: Target, spans: int) -> None:
    labels = target.labels
    if len(target.spans) != spans or spans not in (1, 2):
        required = f"{spans} spans as the first target" if spans in (1, 2) else "1 or 2 spans"
        raise ValueError(
            f"[corpora] {where} must have {required}, got {len(target.spans)}; give every target a "
            "'span2', or none."
        )
    for name, (first, last) in zip(("span1", "span2"), target.spans, strict=False):
        if not 0 <= first < last <= words:
            raise ValueError(
                f"[corpora] {where} must have a {name!r} of a word or more within the {words} "
                f"words of its text, got [{first}, {last}]; give the first word, from 0, and the "
                "one after the last."
            )
    if not labels or not all(label.strip() for label in labels):
        raise ValueError(
            f"[corpora] {where} must have a label, got {list(labels)}; mend the target, or leave "
            "it out."
        )
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"[corpora] {where} must have each label once, got {list(labels)}; leave out the "
            "repeated ones."
        )


def _record(line: hub.Record) -> Record:
    text, targets = line.text("text"), line.fields.get("targets")
    if not text.strip():
        raise ValueError(
            f"[corpora] {line.where} must have a text with a word, got {text!r}; leave it out."
        )
    if not isinstance(targets, list) or not all(isinstance(each, dict) for each in targets):
        found = f"{targets!r:.40}" if "targets" in line.fields else f"fields {sorted(line.fields)}"
        raise ValueError(
            f"[corpora] {line.where} must have a list of objects 'targets', got {found}; mend it."
        )
    numbered = enumerate(targets, start=1)
    return Record(
        tuple(text.split(" ")),
        tuple(_target(f"{line.where} (target {number})", fields) for number, fields in numbered),
    )


def _target(where: str, fields: Mapping[str, Any]) -> Target:
    # JSON has null for a field that some of its writers cannot leave out.
    second = fields.get("span2") is not None
    spans = tuple(_span(where, name, fields) for name in ("span1", "span2")[: 1 + second])
    label = fields.get("label")
    labels = [label] if isinstance(label, str) else [] if label is None else label
    if not isinstance(labels, list) or not all(isinstance(each, str) for each in labels):
        raise ValueError(
            f"[corpora] {where} must have a string or a list of strings 'label', got "
            f"{label!r:.40}; mend it."
        )
    return Target(spans, tuple(labels))


def _span(where: str, name: str, fields: Mapping[str, Any]) -> Span:
    span = fields.get(name)
    # True would be taken for 1.
    if not isinstance(span, list) or [type(each) for each in span] != [int, int]:
        raise ValueError(
            f"[corpora] {where} must have two whole numbers as {name!r}, got {span!r:.40}; mend it."
        )
    return span[0], span[1]
