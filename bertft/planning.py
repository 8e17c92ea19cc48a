"""What is asked of a comparison, and what that is on a corpus; `preparing` fills it in."""

import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from bertft.amounts import require_integers
from bertft.blocks import SITES, Layer, Site
from bertft.budget import GROUP_BLOCK, Storage
from bertft.checkpoints import Checkpoint
from bertft.moments import BLOCK_ROWS
from bertft.ops import RowMap
from bertft.rows import Grouping, Pieces, RowKind, Rows
from bertft.similarity import MEASURES, SAMPLED
from bertft.similarity.intervals import require_groups
from bertft.similarity.permutation import Tested
from bertft.similarity.sides import Ridge, require_ridge

Pairs = Literal["same", "all"]
GPU_BLOCK_ROWS = 8192
"""Rows of a block on a GPU, whose sums are read and written once for each block."""
PERMUTED_ROWS = 1000
"""Most rows of a permutation test, which takes n^2 time for each order of n rows."""

PRETRAINED, FINETUNED = "pretrained", "finetuned"


def role_of(number: int) -> str:
    """Return the role of a fine-tuned model, the first of which is number 0.

    >>> role_of(0), role_of(1)
    ('finetuned', 'finetuned-2')
    """
    return FINETUNED if number == 0 else f"{FINETUNED}-{number + 1}"


@dataclass(frozen=True)
class Options:
    """What is asked of a comparison; `bertft.compare` says what each of them means."""

    measures: Sequence[str] | None = None
    rows: RowKind = "words"
    limit: int | None = None
    seed: int = 0
    max_length: int | None = None
    pairs: Pairs = "same"
    groups: int | None = None
    ridge: Ridge | None = None
    sample: int = 5000
    permutations: int = 0
    memory_gib: float | None = None
    sites: tuple[Site, ...] = ("output",)
    layers: tuple[int, ...] | None = None
    pieces: Pieces = "mean"
    group: Grouping | None = None

    def __post_init__(self) -> None:
        least_of = {"limit": 2, "max_length": 1, "seed": 0, "sample": 4, "permutations": 0}
        counts = {name: getattr(self, name) for name in least_of}
        require_integers("compare", **counts)
        for name, count in counts.items():
            least = least_of[name]
            if count is not None and count < least:
                raise ValueError(
                    f"[compare] {name} must be at least {least}, got {count}; pass more."
                )
        if self.pairs not in get_args(Pairs):
            raise ValueError(
                f"[compare] pairs must be one of {get_args(Pairs)}, got {self.pairs!r}; pass one."
            )
        if self.group not in (None, *get_args(Grouping)):
            raise ValueError(
                f"[compare] group must be 'segment' or None, got {self.group!r}; pass one."
            )
        if self.group is not None and self.rows == "cls":
            raise ValueError(
                "[compare] rows must be words or tokens where they are grouped by segment, got "
                "'cls', which is a special token; leave out group (--group) or rows (--rows)."
            )
        if self.pieces != "mean" and self.rows != "words":
            raise ValueError(
                f"[compare] pieces must be left out where rows are not words, got {self.pieces!r} "
                f"for rows of {self.rows!r}; pass rows='words' (--rows words)."
            )
        if self.memory_gib is not None and not 0 < self.memory_gib < math.inf:
            raise ValueError(
                f"[compare] memory_gib must be positive and finite, got {self.memory_gib}; "
                "leave it out for what is available."
            )
        if self.permutations and self.measures is not None:
            tested = get_args(Tested)
            if not set(tested) & set(self.measures):
                raise ValueError(
                    f"[compare] permutations must be of {' or '.join(tested)}, got measures "
                    f"{', '.join(self.measures)}; add one, or leave permutations out."
                )
        if self.ridge is not None:
            require_ridge("compare", self.ridge)
            inverting = [name for name, measure in MEASURES.items() if measure.n_above_d]
            if self.measures is not None and not set(inverting) & set(self.measures):
                raise ValueError(
                    f"[compare] ridge must be of one of {', '.join(inverting)}, got measures "
                    f"{', '.join(self.measures)}; add one, or leave ridge out."
                )
        if self.groups is not None:
            require_groups("compare", self.groups)


@dataclass(frozen=True)
class Task:
    """What is to be done on one corpus with one fine-tuned model, and what it leaves out.

    Attributes:
        name: of the corpus.
        source: where its texts came from.
        fingerprint: of its texts, which are no longer needed.
        texts: how many there were with words.
        empty: how many there were without, left out.
        views: by model the encoded texts with the rows that were drawn; models with the same tokens
            share theirs.
        available: rows that there were to draw from.
        measures: names of the measures that these rows allow, from sums.
        sampled: names of those from a sample of rows.
        pairs: of a layer of each model.
        options: of the comparison.
        max_length: most tokens of a text.
        bounds: number of the first row of each group, and of rows; empty without intervals.
        storage: how groups are kept.
        pairs_at_once: most pairs that are solved at the same time.
        device: where rows are summed.
        notes: what the user should know.
        finetuned: role of the fine-tuned model.
    """

    name: str
    source: str
    fingerprint: str
    texts: int
    empty: int
    views: Mapping[str, Rows]
    available: int
    measures: list[str]
    sampled: list[str]
    pairs: list[tuple[Layer, Layer]]
    options: Options
    max_length: int | None
    bounds: list[int]
    storage: Storage | None
    pairs_at_once: int
    device: torch.device
    notes: list[str]
    finetuned: str = FINETUNED

    @property
    def key(self) -> str:
        """What tells the task from others: the corpus, and of several models the later ones."""
        return self.name if self.finetuned == FINETUNED else f"{self.name}, {self.finetuned}"

    @property
    def sides(self) -> dict[str, str]:
        """The two models' places in the comparison, by what they are in the task."""
        return {PRETRAINED: PRETRAINED, FINETUNED: self.finetuned}

    @property
    def rows(self) -> Rows:
        """The rows that were drawn, as the first model has them."""
        return next(iter(self.views.values()))

    @property
    def row_maps(self) -> list[RowMap]:
        """Row maps that the measures read."""
        return row_maps_of(self.measures)

    @property
    def needs_sample(self) -> bool:
        """Whether rows are kept."""
        return bool(self.sampled) or self.options.permutations > 0

    @property
    def block_rows(self) -> int:
        """Most rows of a block."""
        return block_rows(self.storage, len(self.bounds) - 1, self.device)

    def layers(self, role: str) -> list[Layer]:
        """Return the layers of a model that are in a pair, in order."""
        place = (PRETRAINED, FINETUNED).index(role)
        return sorted(
            {pair[place] for pair in self.pairs}, key=lambda at: (SITES.index(at.site), at.number)
        )

    def plan(self, nbytes: int) -> str:
        """Return the line that is printed before the pass."""
        numbers = sorted({layer.number for pair in self.pairs for layer in pair})
        is_run = len(numbers) > numbers[-1] - numbers[0]
        told = f"{numbers[0]} to {numbers[-1]}" if is_run else ", ".join(map(str, numbers))
        if self.options.sites != ("output",):
            told += f" ({', '.join(self.options.sites)})"
        folder = tempfile.gettempdir() if self.storage == "rows" else ""
        kept = {None: "", "sums": ", and of each group", "rows": f", rows on disk in {folder}"}
        return (
            f"{self.name}: {self.rows.n:,} of {self.available:,} rows in "
            f"{len(self.rows.texts):,} texts ({self.rows.tokens:,} tokens), layers {told}, "
            f"{len(self.pairs)} pairs, statistics {nbytes / 2**20:,.0f} MiB{kept[self.storage]}"
        )

    def describe(self) -> dict[str, Any]:
        """Return the record of the corpus for the provenance."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "texts": self.texts,
            "empty_texts": self.empty,
            "rows": self.available,
            "rows_used": self.rows.n,
            "truncated_texts": self.rows.truncated_texts,
            "truncated_words": self.rows.truncated_words,
            "dropped_words": self.rows.dropped_words,
            "unpaired_words": self.rows.unpaired_words,
            "group_bounds": self.bounds,
        }


def known_measures(measures: Sequence[str] | None) -> list[str] | None:
    """Return the names without repetition, or None for the default ones.

    Raises:
        ValueError: an unknown name, or none.
    """
    if measures is None:
        return None
    names = measures.split(",") if isinstance(measures, str) else list(measures)
    names = [name.strip() for name in names]
    known = [*MEASURES, *SAMPLED]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"[compare] measures must be among {', '.join(known)}, got "
            f"{', '.join(unknown) or 'none'}; check the spelling."
        )
    return list(dict.fromkeys(names))


def layers_asked(
    layers: str | int | Sequence[int] | None,
) -> tuple[str | None, tuple[int, ...] | None]:
    """Return the path of a module list and numbers of layers, of which `layers` tells one or both.

    Raises:
        TypeError: a number that is not whole.
        ValueError: text that is neither.

    >>> layers_asked("0,6,12"), layers_asked([12, 0]), layers_asked("model.decoder.layers")
    ((None, (0, 6, 12)), (None, (0, 12)), ('model.decoder.layers', None))
    >>> layers_asked("model.decoder.layers:0,6")
    ('model.decoder.layers', (0, 6))
    """
    if layers is None:
        return None, None
    path: str | None = None
    if isinstance(layers, str):
        first, colon, rest = layers.partition(":")
        if re.fullmatch(r"[^\W\d]\w*(\.\w+)*", first):
            path = first
        if path and not colon:
            return path, None
        words = [word.strip() for word in (rest if path else layers).split(",")]
        if not all(word.isdecimal() for word in words):
            raise ValueError(
                "[compare] layers must be numbers, 0,6,12, the path of a module list, or both, "
                f"decoder.layers:0,6,12, got {layers!r}; pass one of these, or none for all."
            )
        numbers = [int(word) for word in words]
    else:
        numbers = list(layers) if isinstance(layers, Iterable) else [layers]
    for number in numbers:
        require_integers("compare", layers=number)
    return path, tuple(sorted({int(number) for number in numbers}))


def sites_asked(sites: str | Sequence[str]) -> tuple[Site, ...]:
    """Return the names of sites without repetition.

    Raises:
        ValueError: an unknown name, or none.
    """
    given = sites.split(",") if isinstance(sites, str) else sites
    names = [str(name).strip() for name in (given if isinstance(given, Iterable) else [given])]
    if not names or not set(names) <= set(SITES):
        raise ValueError(
            f"[compare] sites must be among {', '.join(SITES)}, got {', '.join(names) or 'none'}; "
            "pass one or more of these."
        )
    return tuple(site for site in SITES if site in names)


def layer_pairs(sides: Mapping[str, Checkpoint], options: Options) -> list[tuple[Layer, Layer]]:
    """Return the pairs of a layer of each model that are compared, site by site.

    Raises:
        ValueError: a site that a model's blocks do not have, or a layer that a model or none of the
            sites has.
    """
    pairs = []
    for site in options.sites:
        first, second = (_chosen(side, site, options.layers) for side in sides.values())
        if options.pairs == "all":
            pairs += [(a, b) for a in first for b in second]
        else:
            # A truncated model has fewer; other models of different depths, those that are named.
            pairs += [(layer, layer) for layer in first if layer in second]
    found = {layer.number for pair in pairs for layer in pair}
    absent = sorted(set(options.layers or ()) - found)
    if absent or not pairs:
        depths = " and ".join(f"0..{side.blocks.depth} of {side.name!r}" for side in sides.values())
        raise ValueError(
            f"[compare] layers must be among {depths}, and only output has a layer 0, got "
            f"{', '.join(map(str, absent)) or 'none'}; leave it out, or name others."
        )
    return pairs


def _chosen(side: Checkpoint, site: Site, numbers: tuple[int, ...] | None) -> list[Layer]:
    if site != "output" and site not in side.blocks.sublayers:
        raise ValueError(
            f"[compare] sites must be ones that the blocks have, got {site!r} for {side.name!r}, "
            f"where no projection of its own ends it; pass sites=output (--sites output)."
        )
    layers = side.blocks.layers(site)
    return [layer for layer in layers if numbers is None or layer.number in numbers]


def row_maps_of(measures: Sequence[str]) -> list[RowMap]:
    """Return the row maps that measures from sums read; the geometry of layers wants one."""
    needed = {MEASURES[name].row_map for name in measures} or {"raw"}
    maps: tuple[RowMap, ...] = ("raw", "unit", "centered_unit")
    return [row_map for row_map in maps if row_map in needed]


def block_rows(storage: Storage | None, groups: int, device: torch.device) -> int:
    """Return the most rows of a block; products of groups want more, and so does a GPU."""
    least = GPU_BLOCK_ROWS if device.type == "cuda" else BLOCK_ROWS
    return max(least, GROUP_BLOCK * groups) if storage == "sums" else least
