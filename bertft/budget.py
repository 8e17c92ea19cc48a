"""Whether what a pass keeps fits in memory and on disk, decided before it begins."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Storage = Literal["sums", "rows"]
"""Where groups are kept: as sums in memory, or as rows on disk from which sums are made."""

GROUP_BLOCK = 512
"""Rows of each group in a block: with fewer, adding to the sums of all groups takes longer."""


@dataclass(frozen=True)
class Need:
    """Bytes that a pass and its solution hold.

    Attributes:
        sums: of all rows, under every row map.
        solving: of factorizations, and of one pair that is solved.
        pair: of each other pair that is solved at the same time.
        block: of the rows that wait for their products.
        sample: of the rows that are kept.
        rows: of all rows of all layers, on disk.
        sampling: of what measures of a sample prepare and compare, after all else is solved.
        corpora: whose sums are kept to the end; all else is of one corpus after another.
    """

    sums: int
    solving: int
    pair: int
    block: int
    sample: int
    rows: int
    sampling: int
    corpora: int = 1

    def memory(self, groups: int | None, storage: Storage | None) -> int:
        """Return the most bytes in memory: in the pass, or of what comes after it one by one."""
        rest, part = self._without(groups, storage)
        steps = part + self.block, part + rest, rest + self.solving, self.sampling
        return self._kept(groups, storage) + max(steps)

    def pairs_at_once(self, groups: int | None, storage: Storage | None, memory: int) -> int:
        """Return how many pairs can be solved at once in this memory."""
        rest, _ = self._without(groups, storage)
        left = memory - self._kept(groups, storage) - rest - self.solving
        return 1 + max(0, left) // self.pair

    def _kept(self, groups: int | None, storage: Storage | None) -> int:
        """Sums of all corpora, those of groups of one if kept so, and its sample."""
        of_groups = groups or 0 if storage == "sums" else 0
        return (self.corpora + of_groups) * self.sums + self.sample

    def _without(self, groups: int | None, storage: Storage | None) -> tuple[int, int]:
        """The rest without a group; and a group that is made of rows, gone before it is solved."""
        return self.sums if groups else 0, self.sums if storage == "rows" else 0


def choose_storage(
    need: Need, grouped: Need, groups: int | None, memory: int, corpus: str, ways_out: str
) -> Storage | None:
    """Return how groups are kept: as sums where they fit in memory, else as rows on disk.

    Args:
        need: of a pass with blocks of the usual size.
        grouped: of one with blocks for sums of groups.
        groups: of the jackknife, or None.
        memory: bytes that may be used.
        corpus: its name.
        ways_out: what needs less memory.

    Raises:
        ValueError: neither fits; the message names the ways out.
    """
    if groups is not None and grouped.memory(groups, "sums") <= memory:
        return "sums"
    storage: Storage | None = "rows" if groups is not None else None
    needed = need.memory(groups, storage)
    if needed > memory:
        raise ValueError(
            f"[compare] statistics of {corpus!r} must fit in {memory / 2**30:.1f} GiB of memory, "
            f"got {needed / 2**30:.1f} GiB; pass {ways_out}."
        )
    if storage is None:
        return None
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if need.rows > free:
        raise ValueError(
            f"[compare] rows of {corpus!r} must fit on disk for {groups} groups, got "
            f"{need.rows / 2**30:.1f} GiB and {free / 2**30:.1f} free in "
            f"{tempfile.gettempdir()!r}; pass fewer rows (limit), another TMPDIR, "
            f"{grouped.memory(groups, 'sums') / 2**30:.1f} memory_gib for sums instead, or no "
            "intervals."
        )
    return storage


def sums_bytes(widths: Sequence[int], pairs: Sequence[tuple[int, int]], row_maps: int) -> int:
    """Return the bytes of the products of sides of these widths, and of pairs of widths."""
    products = sum(d * d for d in widths) + sum(a * b for a, b in pairs)
    return 8 * row_maps * products


def available_memory() -> int:
    """Return the bytes that new work may take without swapping, as the kernel estimates them."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
