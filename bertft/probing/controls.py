"""Control tasks: what only the identity of a word can tell (Hewitt & Liang 2019)."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from bertft.corpora.edges import Record
from bertft.probing.examples import Examples


def word_types(records: Sequence[Record], kept: Sequence[int]) -> list[str]:
    """Return the type of each target: the words of its first span, whatever their case.

    Args:
        records: of a split.
        kept: numbers of the targets among all targets of the records.
    """
    types = [
        " ".join(record.words[slice(*target.spans[0])]).casefold()
        for record in records
        for target in record.targets
    ]
    return [types[number] for number in kept]


def control_labels(types: Sequence[Sequence[str]], labels: Tensor, seed: int) -> list[Tensor]:
    """Return random labels for the targets of each split, the same for equal types in all of them.

    Each type draws from the labels of the training targets, as often as they have them. What a
    probe gets right of this task it has memorized: `accuracy - control accuracy` is its
    selectivity.

    Args:
        types: for each split, the type of each target; training first.
        labels: `(T, C)` uint8 of the training targets.
        seed: of the draw.
    """
    return [labels[drawn] for drawn in _drawn_by_type(types, len(labels), seed)]


def control_arcs(types: Sequence[Sequence[str]], arcs: Sequence[Examples]) -> list[Examples]:
    """Return the arcs of control trees for each split, in which a word's type tells its head.

    Each type attaches to itself, to the first or to the last word of the sentence, one as likely as
    another and the same in all splits.

    Args:
        types: for each split, the type of each target; training first.
        arcs: for each split its targets, one for each word, with the word as the first span.
    """
    return [
        _attached(own, place)
        for own, place in zip(arcs, _drawn_by_type(types, 3, seed=0), strict=True)
    ]


def _drawn_by_type(types: Sequence[Sequence[str]], choices: int, seed: int) -> list[Tensor]:
    """For each split, the number below `choices` that the type of each target draws."""
    vocabulary = sorted(set(chain.from_iterable(types)))
    drawn = np.random.default_rng(seed).integers(choices, size=len(vocabulary))
    number = dict(zip(vocabulary, drawn.tolist(), strict=True))
    return [torch.tensor([number[own] for own in split]) for split in types]


def _attached(arcs: Examples, place: Tensor) -> Examples:
    """Arcs to the word itself (0), or to the first (1) or last (2) one of its sentence."""
    words = torch.unique_consecutive(arcs.sentence, return_counts=True)[1]
    last = words.cumsum(0) - 1
    itself = torch.arange(len(arcs))
    first, last = ((last - words + 1).repeat_interleave(words), last.repeat_interleave(words))
    head = torch.stack([itself, first, last], 1).gather(1, place[:, None])[:, 0]
    starts, stops = (
        torch.stack([spans[:, 0], spans[head, 0]], 1) for spans in (arcs.starts, arcs.stops)
    )
    return Examples(starts, stops, arcs.sentence)
