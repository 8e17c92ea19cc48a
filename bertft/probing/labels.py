"""What probes should say: the labels of targets, and the losses of logits for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from bertft import ops

if TYPE_CHECKING:
    from bertft.probing.bank import Probe


class Wanted(NamedTuple):
    """What probes should say of a batch of targets.

    Attributes:
        targets: `(K, B)` int64, the label of each target or -1 (softmax), or `(K, C, B)` uint8, 1
            for those that it has (sigmoid).
        counted: `(K,)` float64, over how many terms a probe's mean loss is: targets that have a
            label, or targets times labels.
    """

    targets: Tensor
    counted: Tensor

    @property
    def scales(self) -> Tensor:
        """What makes a sum of each probe's terms their mean, `(K,)` float32."""
        return self.counted.clamp(min=1).reciprocal().float()

    def differentiate(self, logits: Tensor, losses: Tensor) -> None:
        """Turn logits `(K, C, B)` into the gradient of the summed losses, in place.

        Adds each probe's summed loss to `losses` `(K,)` float64.

        Raises:
            ValueError: a loss that is not finite.
        """
        k, c, b = logits.shape
        flat, offsets = logits.view(k * c, b), torch.arange(k + 1, device=logits.device) * c
        if self.targets.dim() == 2:
            finite = ops.softmax_gradient(flat, offsets, self.targets, losses)
        else:
            finite = ops.sigmoid_gradient(flat, offsets, self.targets.view(k * c, b), losses)
        require_finite(finite, losses)


def require_finite(finite: bool, losses: Tensor) -> None:
    """Refuse losses that are not finite."""
    if not finite:
        raise ValueError(
            f"[probe] losses must be finite, got {losses.tolist()}; lower lr, or check the "
            "features."
        )


class Labels:
    """Sets of labels for the same targets, of which each probe learns one.

    Args:
        sets: each `(T, C)` uint8, 1 for the labels that a target has.
        exclusive: whether the loss takes a target to have exactly one label (softmax) or each label
            to be a decision of its own (sigmoid).
        unknown: `(T,)` number of a target's labels, in the first set, that are not among the C.
    """

    def __init__(
        self, sets: Sequence[Tensor], exclusive: bool, unknown: Tensor | None = None
    ) -> None:
        self.exclusive = exclusive
        self._sets = torch.stack([own.T for own in sets])
        self._classes = classes_of(self._sets.transpose(1, 2)) if exclusive else None
        none = self._sets.new_zeros(self._sets.shape[2], dtype=torch.int64)
        self._unknown = none if unknown is None else unknown

    def take(self, index: Tensor) -> "Labels":
        """Return the labels of some of the targets."""
        sets = [own.T for own in self._sets[..., index]]
        return Labels(sets, self.exclusive, self._unknown[index])

    def of(self, probes: Sequence["Probe"], index: Tensor) -> Tensor:
        """Return `(K, C, B)` uint8, what each probe should say of some targets."""
        return _of_probes(self._sets, probes, index)

    def unknown(self, probes: Sequence["Probe"], index: Tensor) -> Tensor:
        """Return `(B, K)`, how many labels of a target no probe can say."""
        first = torch.tensor([probe.labels == 0 for probe in probes], device=index.device)
        return self._unknown[index, None] * first

    def wanted(self, probes: Sequence["Probe"], index: Tensor) -> Wanted:
        """Return what each probe should say of some targets, and how many of them count."""
        if self._classes is not None:
            classes = _of_probes(self._classes, probes, index)
            return Wanted(classes, (classes >= 0).sum(1).double())
        labels = self.of(probes, index)
        terms = float(labels[0].numel())
        return Wanted(labels, labels.new_full((len(labels),), terms, dtype=torch.float64))


def classes_of(labels: Tensor) -> Tensor:
    """Return the one label of each row of `(..., C)`, or -1 where it has none."""
    return torch.where(labels.bool().any(-1), labels.argmax(-1), -1)


def _of_probes(sets: Tensor, probes: Sequence["Probe"], index: Tensor) -> Tensor:
    """Of `(sets, ..., T)`, the set of each probe for some targets, `(K, ..., B)`."""
    own = torch.tensor([probe.labels for probe in probes], device=index.device)
    return sets.index_select(-1, index).index_select(0, own)
