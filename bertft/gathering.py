"""What a pass keeps of the rows that go by: sums of all, sums of groups, and a sample of them.

Owns the groups of the jackknife, in memory or rebuilt from rows on disk, and the seeded sample.
Rows are known by their number among all rows of a corpus, so nothing depends on how texts are
batched.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bertft.devices import handed_over
from bertft.files import is_disk_full
from bertft.moments import BLOCK_ROWS, Moments

Rows = Mapping[str, Tensor]


def no_fault(device: torch.device) -> Tensor:
    """Return what faults of rows are noted in while sums are added to."""
    return torch.full((), -1, dtype=torch.int64, device=device)


class Groups(Protocol):
    """The moments of each group of sentences, in order, as often as they are asked for."""

    sizes: list[int]

    def __iter__(self) -> Iterator[Moments]:
        """Yield the moments of each group."""


class SummedGroups:
    """Moments of each group, added to as rows come.

    Args:
        template: empty moments with the sides and pairs of the groups.
        bounds: number of the first row of each group, and of rows.
        backend: of `bertft.ops`.
    """

    def __init__(self, template: Moments, bounds: Sequence[int], backend: str | None) -> None:
        self.sizes = np.diff(bounds).tolist()
        self._first = torch.tensor(bounds[1:])
        self._template, self._backend = template, backend
        self._fault = no_fault(template.device)
        self._parts: dict[int, Moments] = {}

    def add(self, rows: Rows, numbers: Tensor) -> None:
        """Add rows to the sums of their groups."""
        group_of = torch.bucketize(numbers, self._first, right=True)
        for group in sorted(set(group_of.tolist())):
            own = handed_over((group_of == group).nonzero()[:, 0], self._template.device)
            part = self._parts.setdefault(group, self._template.empty())
            of_group = {side: x[own] for side, x in rows.items()}
            part.update(of_group, backend=self._backend, fault=self._fault)
            # One origin for all groups: their sums then merge without moving it.
            self._template = part

    def settle(self) -> None:
        """Wait for all sums, refuse unusable rows, and take the sums to the CPU."""
        self._template.require_usable(self._fault)
        self._parts = {group: part.to("cpu") for group, part in self._parts.items()}

    def __iter__(self) -> Iterator[Moments]:
        for group in sorted(self._parts):
            yield self._parts[group]


class SpooledGroups:
    """Rows on disk in the order of the corpus; the moments of a group are made when asked for.

    The files are in the folder for temporary files (TMPDIR) and have no name any more once they are
    open, so they go with the process. Their pages are the system's: what was written or read does
    not stay in the memory of the process.

    Args:
        template: moments with the sides and pairs of the groups, which start about its origins.
        bounds: number of the first row of each group, and of rows.
        dtype: of the rows.
        backend: of `bertft.ops`.

    Raises:
        OSError: there is no room.
    """

    def __init__(
        self, template: Moments, bounds: Sequence[int], dtype: torch.dtype, backend: str | None
    ) -> None:
        self.sizes = np.diff(bounds).tolist()
        self._bounds, self._template, self._backend = bounds, template, backend
        with tempfile.TemporaryDirectory(prefix="bertft-") as folder:
            self._spools = {
                side: _Spool(Path(folder) / side, (bounds[-1], width), dtype)
                for side, width in template.widths.items()
            }

    def add(self, rows: Rows, numbers: Tensor) -> None:
        """Write rows to their places, from the device on which they are."""
        for side, x in rows.items():
            spool = self._spools[side]
            spool.rows[numbers] = x.to("cpu")
            spool.release()

    def settle(self) -> None:
        """Nothing is to be waited for: rows on disk are complete."""

    def __iter__(self) -> Iterator[Moments]:
        # Nothing here holds a part while it is in use: it may be as large as the whole.
        for start, stop in pairwise(self._bounds):
            yield self._moments(start, stop)

    def _moments(self, start: int, stop: int) -> Moments:
        part = self._template.empty()
        for first in range(start, stop, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, stop)
            rows = {side: spool.rows[first:last] for side, spool in self._spools.items()}
            part.update(rows, backend=self._backend)
        part = part.to("cpu")  # which waits for what still reads the rows
        for spool in self._spools.values():
            spool.release()
        return part


class RowSample:
    """Rows drawn uniformly from those of a corpus, the same on every side.

    Args:
        widths: name and number of columns of every side.
        n: rows of the corpus.
        size: rows to draw, or all if there are fewer.
        seed: of the draw.
        dtype: of the rows.
        device: where they are.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        n: int,
        size: int,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        drawn = np.random.default_rng(seed).choice(n, min(size, n), replace=False)
        self.numbers = torch.from_numpy(np.sort(drawn))
        self.rows = {
            side: torch.empty(len(self.numbers), d, dtype=dtype, device=device)
            for side, d in widths.items()
        }
        self._place = torch.full((n,), -1)
        self._place[self.numbers] = torch.arange(len(self.numbers))

    def add(self, rows: Rows, numbers: Tensor) -> None:
        """Keep those of the rows that were drawn."""
        place = self._place[numbers]
        drawn = (place >= 0).nonzero()[:, 0]
        into = handed_over(place[drawn], self._device)
        drawn = handed_over(drawn, self._device)
        for side, x in rows.items():
            self.rows[side].index_copy_(0, into, x.index_select(0, drawn))

    def settle(self) -> None:
        """Take the rows to the CPU."""
        self.rows = {side: x.to("cpu") for side, x in self.rows.items()}

    def sizes(self, bounds: Sequence[int]) -> list[int]:
        """Return how many rows of each group were drawn."""
        counts, _ = np.histogram(self.numbers.numpy(), bounds)
        return [int(count) for count in counts]


@dataclass(frozen=True)
class Gathered:
    """What a pass leaves.

    Attributes:
        moments: of all rows.
        groups: the moments of each group of sentences, for intervals.
        sample: rows of their own, for measures that need them.
    """

    moments: Moments
    groups: Groups | None = None
    sample: RowSample | None = None


class _Spool:
    """Rows `(n, d)` in a file of their own, whose room is taken at once: later it could only crash.

    Raises:
        OSError: there is no room.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: torch.dtype) -> None:
        nbytes = shape[0] * shape[1] * dtype.itemsize
        with path.open("w+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, nbytes)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                raise OSError(
                    f"[compare] folder for temporary files must have room for "
                    f"{nbytes / 2**30:.1f} GiB of rows of a layer, got none left in "
                    f"{str(path.parent)!r}; set TMPDIR, or pass fewer rows (limit)."
                ) from None
            self._pages = mmap.mmap(file.fileno(), nbytes)
        self.rows = torch.frombuffer(self._pages, dtype=dtype).view(shape)

    def release(self) -> None:
        """Give the pages that were touched back to the system, which keeps what they hold."""
        self._pages.madvise(mmap.MADV_DONTNEED)
