"""Edge-probing tasks: training and held-out records under a name, and the labels to tell apart.

Owns which labels a task has and which of them are scored. The formats of files are left to
`corpora`, pieces and rows to `spans`.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from bertft.amounts import require_integers
from bertft.corpora.conllu import read_trees
from bertft.corpora.edges import Record, checked, from_arcs, from_tags, read_records

POS, ARCS, STRUCTURAL = "pos", "arcs", "structural"
PARTS = ("train", "dev")
_UNSCORED = "Other"
_COREFERENCE = ("0", "1")
_Sentence = TypeVar("_Sentence")


@dataclass(frozen=True)
class EdgeTask:
    """Records to train edge probes on, and records to score them on.

    Attributes:
        name: letters, digits, "-" and "_".
        labels: those of the training records, sorted.
        spans: how many spans every target has, 1 or 2.
        exclusive: every training target has exactly one label.
        train: training records.
        dev: held-out records. Their labels that training lacks stay: they can only be missed.
        unknown: those labels, and how often each is held out.
        fingerprint: hash of the records.
    """

    name: str
    labels: tuple[str, ...]
    spans: int
    exclusive: bool
    train: tuple[Record, ...]
    dev: tuple[Record, ...]
    unknown: dict[str, int]
    fingerprint: str

    @classmethod
    def read(
        cls, name: str, folder: str | os.PathLike[str], limit: int | None = None
    ) -> "EdgeTask":
        """Read a task from a folder with `train.jsonl` and `dev.jsonl`.

        "pos" and "arcs" read parts of speech and dependencies from the folder's one
        `*train*.conllu` and its one `*dev*.conllu`.

        Args:
            name: of the task.
            folder: with the two files.
            limit: most training sentences with a target; more are drawn from uniformly, by seed 0
                and in their order. Held-out records are never cut.

        Raises:
            FileNotFoundError: no such folder or file.
            ValueError: files that their format does not allow, a limit below 1, or what `of`
                refuses.
        """
        _check_name(name)
        check_limit("EdgeTask", limit)
        train, dev = _read(name, Path(folder).expanduser())
        useful = [record for record in train if record.targets]
        return cls.of(name, train if limit is None else drawn(useful, limit), dev)

    @classmethod
    def of(cls, name: str, train: Iterable[Record], dev: Iterable[Record]) -> "EdgeTask":
        """Return a task of records.

        Raises:
            ValueError: a name with other characters, a record that does not fit, fewer than two
                labels to train on, or targets with one span beside targets with two.
        """
        _check_name(name)
        parts = {"training": train, "dev": dev}
        kept = {part: tuple(_located(name, part, records)) for part, records in parts.items()}
        counts = {part: _label_counts(records) for part, records in kept.items()}
        labels = tuple(sorted(counts["training"]))
        spans = {part: _spans(records) for part, records in kept.items()}
        if spans["dev"] != spans["training"]:
            raise ValueError(
                f"[EdgeTask] dev records of {name} must have targets with {spans['training']} "
                f"spans as its training records, got {spans['dev']}; pass files of one task."
            )
        if len(labels) < 2:
            raise ValueError(
                f"[EdgeTask] training records of {name} must have two labels or more, got "
                f"{list(labels)}; pass more sentences, or a raised limit."
            )
        return cls(
            name,
            labels,
            spans["training"],
            all(
                len(target.labels) == 1 for record in kept["training"] for target in record.targets
            ),
            kept["training"],
            kept["dev"],
            {label: n for label, n in sorted(counts["dev"].items()) if label not in labels},
            _fingerprint(kept.values()),
        )

    @property
    def scored(self) -> tuple[bool, ...]:
        """For each of `labels`, if it counts in micro-F1."""
        return tuple(self.scores(label) for label in self.labels)

    @property
    def has_arcs(self) -> bool:
        """Whether the targets are the arcs of trees, each a word and its head ("arcs")."""
        return self.name == ARCS and self.spans == 2

    def scores(self, label: str) -> bool:
        """Return if a label, known or not, counts in micro-F1.

        "Other" does not. Of coreference, the labels "0" and "1", only "1" does.
        """
        if self.labels == _COREFERENCE:
            return label != "0"
        return label != _UNSCORED


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(
            f"[EdgeTask] name must be of letters, digits, - and _, got {name!r}; rename the task."
        )
    if name == STRUCTURAL:
        raise ValueError(
            f"[EdgeTask] name must not be {STRUCTURAL!r}, which stands for structural probes, got "
            "it for an edge task; rename the task."
        )


def _read(name: str, folder: Path) -> tuple[list[Record], list[Record]]:
    kind = "*{}*.conllu" if name in (POS, ARCS) else "{}.jsonl"
    train, dev = (only_file("EdgeTask", name, folder, kind.format(part)) for part in PARTS)
    if name in (POS, ARCS):
        return _from_trees(name, train), _from_trees(name, dev)
    return read_records(train), read_records(dev)


def only_file(function: str, name: str, folder: Path, pattern: str) -> Path:
    """Return the one file of a task's folder that a pattern fits.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: several files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"[{function}] folder of {name} must exist, got {str(folder)!r}; check the path."
        )
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = sorted(path.name for path in (found or folder.iterdir()))
        kind = ValueError if found else FileNotFoundError
        raise kind(
            f"[{function}] {folder} must hold one file {pattern}, got {len(found)} among {names}; "
            "pass a folder with a training and a dev file."
        )
    return found[0]


def _from_trees(name: str, path: Path) -> list[Record]:
    trees = read_trees(path)
    return from_tags(trees) if name == POS else from_arcs(trees)


def check_limit(function: str, limit: int | None) -> None:
    """Refuse a limit of sentences that leaves none.

    Raises:
        ValueError: it is below 1.
        TypeError: it is no integer.
    """
    require_integers(function, limit=limit)
    if limit is not None and limit < 1:
        raise ValueError(
            f"[{function}] limit must be at least 1, got {limit}; pass None for all sentences."
        )


def drawn(sentences: Sequence[_Sentence], limit: int | None) -> list[_Sentence]:
    """Return at most `limit` sentences, drawn uniformly by seed 0, in their order."""
    if limit is None or len(sentences) <= limit:
        return list(sentences)
    chosen = np.random.default_rng(0).choice(len(sentences), limit, replace=False)
    return [sentences[number] for number in sorted(chosen)]


def _located(name: str, part: str, records: Iterable[Record]) -> list[Record]:
    numbered = enumerate(records, start=1)
    located = ((f"{name}, {part} record {number}", record) for number, record in numbered)
    return checked(f"{part} records of {name}", located)


def _spans(records: Iterable[Record]) -> int:
    return next(len(target.spans) for record in records for target in record.targets)


def _label_counts(records: Iterable[Record]) -> Counter[str]:
    return Counter(
        label for record in records for target in record.targets for label in target.labels
    )


def _fingerprint(parts: Iterable[Iterable[Record]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for record in part:
            targets = [(target.spans, target.labels) for target in record.targets]
            digest.update(repr((record.words, targets)).encode("utf-8", "surrogatepass"))
        digest.update(b"\n")
    return digest.hexdigest()
