"""The losses of structural probes and their gradients: the checks, and the choice of backend.

Probes lie side by side, as in `probes`: a matrix of projected words has the columns of probe 0,
then those of probe 1. `bertft.ops` has the table of all operations, and offers these with the
others.
"""

import torch
from torch import Tensor

from bertft.ops.backends import choose_trainer
from bertft.ops.checks import Call, check_sentences


def distance_gradient(
    projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor, *, backend: str | None = None
) -> bool:
    """Turn words projected by many probes into the gradients of their distance losses.

    For a sentence of n words, `losses[k]` is added `sum_ij | |p_i - p_j|^2 - gold_ij | / n^2` over
    all ordered pairs, with p the rows of probe k. Distances are `g_ii + g_jj - 2 g_ij` with the
    products `g` of the rows, less the first: no `(n, n, rank)` tensor is made. Cost:
    O(n^2 rank) for each sentence and probe.

    Args:
        projected: `(N, K * rank)` float32 or float64, overwritten; probe k has columns from
            `k * rank`. A row is contiguous, rows may lie apart.
        offsets: `(S + 1,)` int64, from 0 up to `N`: the rows of sentence s are offsets[s] to
            offsets[s + 1] - 1, at least one.
        gold: `(sum n^2,)` float32, for each sentence a table of n by n distances, symmetric and 0
            from a word to itself.
        losses: `(K,)` float64, added to.
        backend: of those that `backends` names; by default the one of the device, and "eager" for
            float64.

    Returns:
        Whether every loss is finite.

    Raises:
        ValueError: shapes, types or layouts that don't fit.

    Reference: Hewitt & Manning, A structural probe for finding syntax (2019).
    """
    call = Call("distance_gradient")
    lengths = check_sentences(call, projected, offsets, losses)
    call.output(gold, "gold", torch.float32, (int(lengths.square().sum()),))
    tensors = [projected, offsets, gold, losses]
    chosen = choose_trainer(call, backend, tensors)
    return bool(chosen.distance_gradient(projected, offsets, gold, losses))


def depth_gradient(
    projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor, *, backend: str | None = None
) -> bool:
    """Turn words projected by many probes into the gradients of their depth losses.

    For a sentence of n words, `losses[k]` is added `sum_i | |p_i|^2 - gold_i | / n`. Arguments and
    the rest as for `distance_gradient`, but `gold` is `(N,)`, the depth of each word. Cost:
    O(N K rank).
    """
    call = Call("depth_gradient")
    check_sentences(call, projected, offsets, losses)
    call.output(gold, "gold", torch.float32, (len(projected),))
    tensors = [projected, offsets, gold, losses]
    chosen = choose_trainer(call, backend, tensors)
    return bool(chosen.depth_gradient(projected, offsets, gold, losses))
