"""A split of an edge-probing task in the rows of one tokenizer, and its control tasks.

Owns the way from records to targets and labels; what probes make of them is for `assignments`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bertft.corpora.edges import Record
from bertft.features import Layer
from bertft.probing.bank import Split
from bertft.probing.controls import word_types
from bertft.probing.examples import Examples, Inputs
from bertft.probing.labels import Labels
from bertft.probing.spans import Targets, span_rows
from bertft.probing.tasks import EdgeTask
from bertft.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Part:
    """A split of a task in the rows of one tokenizer: what to capture, and what it is for."""

    rows: Rows
    targets: Targets
    examples: Examples
    labels: Tensor
    unknown: Tensor
    types: list[str]

    @classmethod
    def of(
        cls,
        task: EdgeTask,
        records: Sequence[Record],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
        pooled: bool,
    ) -> "Part":
        """Find the pieces of a split's spans, and its labels."""
        rows, targets = span_rows(records, tokenizer, max_length, pooled)
        number = {label: c for c, label in enumerate(task.labels)}
        everything = [target for record in records for target in record.targets]
        labels = torch.zeros(len(targets.kept), len(number), dtype=torch.uint8)
        unknown = torch.zeros(len(targets.kept), dtype=torch.int64)
        for t, kept in enumerate(targets.kept.tolist()):
            for label in everything[kept].labels:
                if label in number:
                    labels[t, number[label]] = 1
                else:
                    unknown[t] += task.scores(label)
        examples = Examples(
            *(torch.from_numpy(a) for a in (targets.starts, targets.stops, targets.sentence))
        )
        types = word_types(records, targets.kept.tolist())
        return cls(rows, targets, examples, labels, unknown, types)

    def split(
        self,
        layers: Sequence[Layer],
        device: torch.device,
        *,
        exclusive: bool,
        controls: Sequence[Tensor] = (),
    ) -> Split:
        """Return the targets with their features and labels, on a device.

        Args:
            layers: `(n, d)` features of the rows, of one or more layers.
            device: where to train and to score.
            exclusive: whether the loss is a softmax over the labels.
            controls: `(T, C)` labels of control tasks, for further sets of labels.
        """
        sets = [labels.to(device) for labels in (self.labels, *controls)]
        labels = Labels(sets, exclusive, self.unknown.to(device))
        return Split(Inputs(layers, device=device), self.examples.to(device), labels)
