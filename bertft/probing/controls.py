"""Control tasks: labels that only the identity of a word can tell (Hewitt & Liang 2019)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bertft.corpora.edges import Record


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
    vocabulary = sorted({own for split in types for own in split})
    drawn = np.random.default_rng(seed).integers(len(labels), size=len(vocabulary))
    number = dict(zip(vocabulary, drawn.tolist(), strict=True))
    return [labels[torch.tensor([number[own] for own in split])] for split in types]
