"""Linear probes in closed form: ridge regression and LDA from sums, with no features kept.

The sums are those of `Moments` over two sides, the features and the labels (a column of 0 and 1 for
each), so that rows may stream by, and parts merge by addition.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bertft.moments import Moments

# Directions with less of the largest variance are left out, as in every inverse of a covariance.
RANK_TOLERANCE = 1e-8


class LinearProbe(NamedTuple):
    """`z = W x + b` in float64: weight `(C, d)` and bias `(C,)`."""

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Return `(n, C)` for features `(n, d)`."""
        return x.double() @ self.weight.T + self.bias


def ridge(
    moments: Moments, l2: float = 50.0, *, features: str = "x", labels: str = "y"
) -> LinearProbe:
    """Return the ridge regression of labels (0 or 1) on features.

    `W = C_yx (C_xx + l2 v I)^-1` with C the centered cross-products and v the mean variance of
    the features; the bias has no penalty.

    Args:
        moments: raw sums over both sides and their pair.
        l2: the penalty in units of the features' mean variance, above 0.
        features: name of the side with features.
        labels: name of the side with labels.

    Raises:
        ValueError: l2 not above 0, or moments without raw sums.
    """
    if not l2 > 0:
        raise ValueError(f"[ridge] l2 must be above 0, got {l2}; 50 suits most features.")
    sums = moments.under("raw")
    scatter = sums.scatter(features, features).clone()
    scatter.diagonal().add_(l2 * scatter.trace() / (len(scatter) * moments.n))
    weight = torch.linalg.solve(scatter, sums.scatter(features, labels)).T
    return LinearProbe(weight, sums.mean(labels) - weight @ sums.mean(features))


def lda(moments: Moments, *, features: str = "x", labels: str = "y") -> LinearProbe:
    """Return linear discriminant analysis: Gaussian classes with one covariance S.

    `w_c = S^-1 m_c` and `b_c = log p_c - m_c^T S^-1 m_c / 2`, with m_c and p_c the mean and the
    share of class c, and S the covariance within classes over n - C. Softmax of the logits is the
    posterior of a class.

    Args:
        moments: raw sums over both sides and their pair; each row has one label.
        features: name of the side with features.
        labels: name of the side with labels.

    Raises:
        ValueError: a class without rows, rows with another number of labels than one, no more rows
            than classes, or moments without raw sums.
    """
    sums = moments.under("raw")
    counts = (sums.n * sums.mean(labels)).round()
    n, classes = moments.n, len(counts)
    if float(counts.min()) < 1 or float(counts.sum()) != n or n <= classes:
        raise ValueError(
            f"[lda] labels must be one for each row, every class with a row and more rows than "
            f"classes, got {counts.int().tolist()} in {n} rows; leave out empty classes."
        )
    # Means of the classes about the mean of all rows.
    means = sums.scatter(labels, features) / counts[:, None]
    within = sums.scatter(features, features) - means.T @ (counts[:, None] * means)
    values, vectors = torch.linalg.eigh(within / (n - classes))
    kept = values > RANK_TOLERANCE * values[-1]
    whitened = means @ vectors[:, kept] / values[kept].sqrt()
    weight = (whitened / values[kept].sqrt()) @ vectors[:, kept].T
    bias = (counts / n).log() - whitened.square().sum(1) / 2 - weight @ sums.mean(features)
    return LinearProbe(weight, bias)
