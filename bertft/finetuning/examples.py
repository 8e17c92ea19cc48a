"""The examples of a file: those that a run uses, and what the record says of them."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Examples:
    """What a file holds.

    Attributes:
        items: objects of the task's reader, in the order of the file.
        source: path of the file.
        left_out: how many were left out, by reason.
    """

    items: Sequence[Any]
    source: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    def drawn(self, limit: int | None) -> "Examples":
        """Return `limit` examples drawn uniformly, in their order, or all of them.

        It is always the same draw: runs of several seeds differ in head, order and dropout alone.
        """
        _require_positive("limit", limit)
        if limit is None or limit >= len(self.items):
            return self
        chosen = np.random.default_rng(0).choice(len(self.items), limit, replace=False)
        return replace(self, items=[self.items[i] for i in sorted(chosen)])

    def every(self, n: int) -> "Examples":
        """Return every n-th example, from the first."""
        _require_positive("dev_every", n)
        return replace(self, items=self.items[::n])

    @property
    def fingerprint(self) -> str:
        """A hash of all examples, in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for item in self.items:
            digest.update(repr(item).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return what provenance keeps, as JSON types."""
        return {
            "source": self.source,
            "examples": len(self.items),
            "left_out": {what: count for what, count in self.left_out.items() if count},
            "fingerprint": self.fingerprint,
        }


def named(paths: Source | Sequence[Source]) -> dict[str, str]:
    """Return paths by the stem of their file, or by the whole path where two stems are alike.

    Raises:
        ValueError: no path, or one twice.
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    found = [os.fspath(path) for path in listed]
    if not found:
        raise ValueError("[finetune] dev must be one or more files, got none; pass one.")
    stems = [Path(path).stem for path in found]
    names = {
        stem if stems.count(stem) == 1 else path: path
        for stem, path in zip(stems, found, strict=True)
    }
    if len(names) < len(found):
        raise ValueError(f"[finetune] dev must be different files, got {found}; pass each once.")
    return names


def _require_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"[finetune] {name} must be at least 1, got {value}; pass more.")
