"""Online code length: the bits that labels cost, given a layer (Voita & Titov 2020)."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from bertft.probing.bank import Bank, Split
from bertft.probing.examples import Unit

# Shares of the targets, in percent, after which the probe is trained anew.
SHARES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25, 50, 100)


def code_length(
    train: Callable[[Split], Bank], whole: Split, classes: int, batch_size: int, unit: Unit
) -> tuple[Tensor, float]:
    """Return the bits of each probe's online code `(K,)`, and those of the uniform code.

    The first block costs `log2 C` a target, and every further one what probes trained on all the
    blocks before it give: `L = t_1 log2 C - sum_i sum log2 p_i(block i + 1)`. Where labels are not
    exclusive, each of the C is a decision of its own, of 1 bit in the uniform code. The order is
    that of shuffled sentences. `uniform / L` is the compression.

    Args:
        train: returns a bank trained on a part of the targets.
        whole: the targets to encode.
        classes: C.
        batch_size: targets or sentences at a time.
        unit: what `batch_size` counts.
    """
    order = torch.cat(
        list(whole.examples.batches(1, "sentences", torch.Generator().manual_seed(0)))
    )
    n = len(order)
    ends = sorted({max(1, round(n * share / 100)) for share in SHARES})
    a_target = math.log2(classes) if whole.labels.exclusive else float(classes)
    bits = torch.tensor(ends[0] * a_target, dtype=torch.float64, device=order.device)
    for known, end in pairwise(ends):
        # Sorted, since targets stay in the order of their sentences.
        bank = train(whole.take(order[:known].sort()[0]))
        block = whole.take(order[known:end].sort()[0])
        terms = (end - known) * (1 if whole.labels.exclusive else classes)
        bits = bits + bank.losses(block, batch_size, unit) * terms / math.log(2)
    return bits, n * a_target
