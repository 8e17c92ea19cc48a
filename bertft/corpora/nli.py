"""Sentence pairs with an inference label, as MultiNLI and GLUE have them.

Owns the three labels and the names that fields have in the wild.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertft.corpora.hub import Record, records
from bertft.corpora.jsonl import read_objects
from bertft.corpora.tables import read_tsv

LABELS = ("entailment", "neutral", "contradiction")
_FIELDS = (("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label"))
_NO_LABEL = ("-", "-1", -1)
_BY_VALUE: dict[str | int, str] = {
    value: label for number, label in enumerate(LABELS) for value in (label, number, str(number))
}


@dataclass(frozen=True)
class Pair:
    """Two texts and what the first says of the second.

    Attributes:
        premise: the text that is taken as true.
        hypothesis: the text that is judged.
        label: "entailment", "neutral" or "contradiction".
        line: number of its line in the file, or of its row in the data set, from 1.
    """

    premise: str
    hypothesis: str
    label: str
    line: int


@dataclass(frozen=True)
class Pairs:
    """Labeled pairs in file order, and how many had no gold label and were left out."""

    pairs: list[Pair]
    unlabeled: int


def read_pairs(path: str | os.PathLike[str]) -> Pairs:
    """Read sentence pairs from JSON lines, GLUE's TSV or a data set.

    Fields are premise, hypothesis and label, or sentence1, sentence2 and gold_label. Labels are
    words, or 0, 1, 2 in the order of `LABELS`. Pairs with "-" or -1 are left out and counted.

    Args:
        path: a `.jsonl` or `.tsv` file, or a data set as in "nyu-mll/glue/mnli:train".

    Raises:
        FileNotFoundError: no such file or data set.
        ValueError: another ending, no labeled pair, or a line that does not fit (numbered).
    """
    pairs, unlabeled = [], 0
    for record in records(path, _from_file):
        pair = _pair(record)
        if pair is None:
            unlabeled += 1
        else:
            pairs.append(pair)
    if not pairs:
        raise ValueError(
            f"[corpora] {os.fspath(path)} must hold at least one pair with a label, got none and "
            f"{unlabeled} without; pass another file or split."
        )
    return Pairs(pairs, unlabeled)


def _pair(record: Record) -> Pair | None:
    fields = next((names for names in _FIELDS if names[0] in record.fields), None)
    if fields is None or fields[2] not in record.fields:
        raise ValueError(
            f"[corpora] {record.where} must have {' or '.join(map(', '.join, _FIELDS))}, got "
            f"{sorted(record.fields)}; rename the fields."
        )
    premise, hypothesis, label = record.text(fields[0]), record.text(fields[1]), fields[2]
    value = record.fields[label]
    # True and 1.0 would be found as 1.
    known = type(value) in (str, int)
    if known and value in _NO_LABEL:
        return None
    if not known or value not in _BY_VALUE:
        raise ValueError(
            f"[corpora] {record.where} must have one of {', '.join(LABELS)}, 0, 1, 2, or - for no "
            f"majority, got {value!r}; mend the label."
        )
    return Pair(premise, hypothesis, _BY_VALUE[value], record.number)


def _from_file(path: Path) -> Iterator[Record]:
    readers = {".jsonl": read_objects, ".tsv": read_tsv}
    if path.suffix not in readers:
        raise ValueError(
            f"[corpora] pairs must be a {', '.join(readers)} file, got {str(path)!r}; convert it."
        )
    return readers[path.suffix](path)
