"""Where in an encoder a task is solved: statistics over layers (Tenney et al. 2019b)."""

from collections.abc import Sequence

import numpy as np

# Scores of the lowest and of all layers that differ by less leave no layer to expect.
LEAST_GAIN = 1e-3


def center_of_gravity(shares: Sequence[float]) -> float:
    """Return `sum_l l s_l`, the mean layer under the weights of a mixture; in [0, L].

    Args:
        shares: of layers 0..L in the mixture; they add up to 1.

    >>> center_of_gravity([0.25, 0.25, 0.5])
    1.25
    """
    return float(np.arange(len(shares)) @ np.asarray(shares, float))


def expected_layer(scores: Sequence[float]) -> float:
    """Return `sum_l l D(l) / sum_l D(l)` with the gains `D(l) = P(l) - P(l - 1)`, l = 1..L.

    The layer at which examples become right, on average. Gains may be negative, so that it may
    leave [1, L]; NaN where the sum of gains is below 0.001 or negative.

    Args:
        scores: P(0)..P(L), of mixtures of layers 0..l.

    >>> expected_layer([0.5, 0.5, 0.75])
    2.0
    """
    gains = np.diff(np.asarray(scores, float))
    total = gains.sum()
    if not total >= LEAST_GAIN:
        return float("nan")
    return float(np.arange(1, len(scores)) @ gains / total)
