"""Linear probes at their optimum: all of a layer's by one L-BFGS, preconditioned by its features.

The objective of a probe is its mean loss over n targets plus `l2 v / (2 n) |W|^2` with v the mean
variance of the features, so that the scale of a layer does not matter: a Gaussian prior, which
weighs the more the fewer targets there are. It is convex: the optimum does not depend on a seed,
and equal problems are solved once. The Hessian of the mean loss is near `scale * C_xx` in each
label's weights; its inverse makes steps as long in directions of little variance as in those of
much.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bertft import ops
from bertft.probing.bank import Probe, Split
from bertft.probing.linear import LinearBank

BLOCK = 4096
MEMORY = 10
# Mean p (1 - p) of a label early in training; L-BFGS learns the rest.
CURVATURE = 0.1
# Shares of the targets on which the first steps are taken, and how many.
WARM = ((1 / 8, 8), (1 / 2, 6))
# A prior on biases that is felt by labels without a target only, whose logits it keeps finite.
BIAS_PRECISION = 0.01
SUFFICIENT = 1e-4
SMALLEST_STEP = 2.0**-20


@dataclass(frozen=True)
class Optimum:
    """How near its optimum each of K probes is.

    Attributes:
        objective: `(K,)` float64, mean loss and penalty.
        steps: `(K,)` int64, L-BFGS steps over all targets.
        gain: `(K,)` float64, what a further step promises to take off the objective.
        penalty: l2 v / n.
    """

    objective: Tensor
    steps: Tensor
    gain: Tensor
    penalty: float


def solve(
    bank: LinearBank,
    train: Split,
    l2: float,
    *,
    tolerance: float = 1e-5,
    most_steps: int = 200,
) -> Optimum:
    """Set the weights of linear probes to the optimum of their penalized mean loss.

    scikit-learn's `LogisticRegression(C=1 / (penalty * n))` has the same optimum. Cost: O(n d K C)
    for each step.

    Args:
        bank: linear probes; their weights at the start do not matter.
        train: to learn from.
        l2: precision of the prior on weights whose features have variance 1, at least 0.
        tolerance: stop when a step promises less than this part of the objective.
        most_steps: over all targets.

    Raises:
        ValueError: a negative l2, or a loss that is not finite.
    """
    if not l2 >= 0:
        raise ValueError(f"[probe] l2 must be at least 0, got {l2}; 50 suits most features.")
    distinct = {probe.labels: k for k, probe in reversed(list(enumerate(bank.probes)))}
    which = [distinct[probe.labels] for probe in bank.probes]
    solved = sorted(set(which))
    problem = _Problem(train, [bank.probes[k] for k in solved], bank.classes, l2)
    theta = torch.zeros(len(solved), bank.classes, problem.width)
    for share, steps in WARM:
        theta = _descend(problem, theta, problem.part(share), steps, 0.0)[0]
    theta, optimum = _descend(problem, theta, len(problem.x), most_steps, tolerance)
    place = torch.tensor([solved.index(k) for k in which])
    weight, bias = theta[..., :-1], theta[..., -1] - theta[..., :-1] @ problem.mean
    bank.parameters = {"weight": weight[place].contiguous(), "bias": bias[place].contiguous()}
    return Optimum(
        optimum.objective[place], optimum.steps[place], optimum.gain[place], problem.penalty
    )


class _Problem:
    """The objectives of probes on one matrix, centered and with a column of ones for biases."""

    def __init__(
        self,
        train: Split,
        probes: Sequence[Probe],
        classes: int,
        l2: float,
    ) -> None:
        inputs, examples, self._labels = train
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
        self._order, self._probes, self._classes = order, probes, classes
        width = examples.starts.shape[1] * inputs.width
        self.x = torch.ones(len(order), width + 1)
        for first in range(0, len(order), BLOCK):
            index = order[first : first + BLOCK]
            self.x[first : first + BLOCK, :-1] = inputs.pooled(examples, index)[0]
        self.mean = self.x[:, :-1].mean(0)
        self.x[:, :-1] -= self.mean
        self.penalty = l2 * float(self.x[:, :-1].square().mean()) / len(order)
        self._bias_penalty = BIAS_PRECISION / len(order)
        self._inverse = self._inverse_hessian()

    @property
    def width(self) -> int:
        return int(self.x.shape[1])

    def part(self, share: float) -> int:
        """How many targets a share of them is, but not fewer than twice the weights of a label."""
        n = len(self.x)
        return min(n, max(round(share * n), 2 * self.width))

    def _inverse_hessian(self) -> Tensor:
        x = self.x[: self.part(WARM[0][0])]
        hessian = torch.empty(self.width, self.width)
        ops.multiply(x.T, x, hessian)
        hessian *= CURVATURE / len(x)
        diagonal = hessian.diagonal()
        # Where features have a direction without variance, such as after LayerNorm, and l2 is 0.
        diagonal += 1e-6 * diagonal.mean()
        diagonal[:-1] += self.penalty
        return torch.cholesky_inverse(torch.linalg.cholesky(hessian.double())).float()

    def precondition(self, gradient: Tensor) -> Tensor:
        out = torch.empty(gradient.shape[0] * self._classes, self.width)
        ops.multiply(gradient.flatten(0, 1), self._inverse, out)
        return out.view_as(gradient)

    def evaluate(self, theta: Tensor, which: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Objectives `(K,)` and gradients `(K, C, d + 1)` of some probes over the first targets."""
        probes = [self._probes[k] for k in which.tolist()]
        weight = theta.flatten(0, 1)
        losses = torch.zeros(len(probes), dtype=torch.float64)
        counted = torch.zeros(len(probes), dtype=torch.float64)
        gradient = torch.zeros_like(weight)
        part = torch.empty_like(weight)
        logits = torch.empty(min(n, BLOCK), len(weight))
        for first in range(0, n, BLOCK):
            x = self.x[first : min(first + BLOCK, n)]
            z = logits[: len(x)]
            ops.multiply(x, weight.T, z)
            index = self._order[first : first + len(x)]
            counted += self._labels.differentiate(
                z.view(len(x), len(probes), -1), index, probes, losses
            )
            ops.multiply(z.T, x, part)
            gradient += part
        # Sigmoid losses are means over labels too; their objective is the sum over labels.
        terms = counted if self._labels.exclusive else counted / self._classes
        gradient = gradient.view_as(theta) / terms.float()[:, None, None]
        penalties = torch.full((self.width,), self.penalty)
        penalties[-1] = self._bias_penalty
        gradient += penalties * theta
        penalty = (penalties * theta.square()).sum((1, 2), dtype=torch.float64) / 2
        return losses / terms + penalty, gradient


def _descend(
    problem: _Problem, theta: Tensor, n: int, most_steps: int, tolerance: float
) -> tuple[Tensor, Optimum]:
    """L-BFGS with a step length, a memory and an end for each problem of its own."""
    k = len(theta)
    theta = theta.clone()
    going = torch.arange(k)
    objective, gradient = problem.evaluate(theta, going, n)
    zeros = torch.zeros_like(objective)
    best = Optimum(objective.clone(), torch.zeros(k, dtype=torch.int64), zeros, problem.penalty)
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    stuck = torch.zeros(k, dtype=torch.bool)
    for _ in range(most_steps):
        direction = _direction(problem, gradient, memory)
        gain = _dot(direction, gradient)
        best.gain[going] = gain / 2
        keep = (gain / 2 > tolerance * objective) & ~stuck
        if not keep.all():
            going, objective, gradient = going[keep], objective[keep], gradient[keep]
            direction, gain = direction[keep], gain[keep]
            memory = [(s[keep], y[keep], r[keep]) for s, y, r in memory]
        if not len(going):
            break
        step, objective, after = _search(problem, theta, going, n, objective, direction, gain)
        stuck = step < SMALLEST_STEP
        moved, turned = -step[:, None, None] * direction, after - gradient
        curvature = _dot(moved, turned)
        # Pairs without curvature count for nothing.
        inverse = torch.where(curvature > 0, 1 / curvature, 0.0)
        memory = [*memory, (moved, turned, inverse)][-MEMORY:]
        theta[going] += moved
        gradient = after
        best.objective[going] = objective
        best.steps[going] += 1
    return theta, best


def _direction(
    problem: _Problem, gradient: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """The inverse Hessian of the memory times the gradient (two loops; Nocedal & Wright 7.4)."""
    q, shares = gradient, []
    for moved, turned, inverse in reversed(memory):
        share = inverse * _dot(moved, q)
        shares.append(share)
        q = q - share.float()[:, None, None] * turned
    q = problem.precondition(q)
    if memory:
        moved, turned, inverse = memory[-1]
        scale = _dot(moved, turned) / _dot(turned, problem.precondition(turned))
        q = q * torch.where(inverse > 0, scale, 1.0).float()[:, None, None]
    for (moved, turned, inverse), share in zip(memory, reversed(shares), strict=True):
        q = q + (share - inverse * _dot(turned, q)).float()[:, None, None] * moved
    return q


def _search(
    problem: _Problem,
    theta: Tensor,
    going: Tensor,
    n: int,
    objective: Tensor,
    direction: Tensor,
    gain: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each problem's step until it takes off enough; steps, objectives and gradients."""
    step = torch.ones(len(going))
    reached, gradient = objective.clone(), torch.empty_like(direction)
    left = torch.arange(len(going))
    while len(left):
        there = theta[going[left]] - step[left, None, None] * direction[left]
        reached[left], gradient[left] = problem.evaluate(there, going[left], n)
        enough = reached[left] <= objective[left] - SUFFICIENT * step[left] * gain[left]
        # Below this the objective is as low as its rounding lets it be told.
        enough |= step[left] < SMALLEST_STEP
        left = left[~enough]
        step[left] /= 2
    return step, reached, gradient


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """`(K,)` float64 inner products."""
    return (a * b).sum((1, 2), dtype=torch.float64)
