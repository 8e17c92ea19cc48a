"""Linear probes at their optimum: all of a layer's at once, by Adam and then by L-BFGS.

The objective of a probe is its mean loss over n targets plus `l2 v / (2 n) |W|^2` with v the mean
variance of the features, so that the scale of a layer does not matter: a Gaussian prior, which
weighs the more the fewer targets there are. It is convex: the optimum does not depend on a seed,
and equal problems are solved once. A few passes of Adam, at a rate that falls to 0, come near it
sooner than as many gradients over all targets would. L-BFGS does the rest: the Hessian of the mean
loss is near `scale * C_xx` in each label's weights, and its inverse makes steps as long in
directions of little variance as in those of much.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bertft import ops
from bertft.probing.bank import Probe, Split
from bertft.probing.labels import require_finite
from bertft.probing.linear import LinearBank

BLOCK = 4096
MEMORY = 10
# Mean p (1 - p) of a label early in training; L-BFGS learns the rest.
CURVATURE = 0.1
# Of Adam.
PASSES, BATCH, RATE = 4, 256, 8e-3
# Share of the targets that the Hessian is from.
SAMPLE = 1 / 8
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

    scikit-learn's `LogisticRegression(C=1 / (penalty * n))` has the same optimum, of two labels
    that exclude each other the one with `C=2 / (penalty * n)`. Without a prior (l2 = 0) there is
    none where labels can be told apart without error. Cost: O(n d K C) for each step.

    Args:
        bank: linear probes; their weights at the start do not matter.
        train: to learn from.
        l2: precision of the prior on weights whose features have variance 1, at least 0.
        tolerance: stop when a step promises less than this part of the objective.
        most_steps: over all targets.

    Raises:
        ValueError: a negative l2, or none where the targets are too few, or features or a loss that
            are not finite.
    """
    if not l2 >= 0:
        raise ValueError(f"[probe] l2 must be at least 0, got {l2}; 50 suits most features.")
    distinct = {probe.labels: k for k, probe in reversed(list(enumerate(bank.probes)))}
    which = [distinct[probe.labels] for probe in bank.probes]
    solved = sorted(set(which))
    problem = _Problem(train, [bank.probes[k] for k in solved], bank.classes, l2)
    theta, optimum = _descend(problem, _approach(problem), most_steps, tolerance)
    place = torch.tensor([solved.index(k) for k in which], device=theta.device)
    weight = theta[..., :-1] / problem.scale
    bias = theta[..., -1] - weight @ problem.mean
    bank.parameters = {"weight": weight[place].contiguous(), "bias": bias[place].contiguous()}
    return Optimum(
        optimum.objective[place],
        optimum.steps[place],
        optimum.gain[place],
        problem.penalty * problem.scale**2,
    )


class _Problem:
    """The objectives of probes on features of mean 0 and mean variance 1, with a column of ones."""

    def __init__(
        self,
        train: Split,
        probes: Sequence[Probe],
        classes: int,
        l2: float,
    ) -> None:
        inputs, examples, self._labels = train
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
        order = order.to(inputs.device)
        self._order, self._probes, self.classes = order, probes, classes
        width = examples.starts.shape[1] * inputs.width
        self.x = torch.ones(len(order), width + 1, device=order.device)
        for first in range(0, len(order), BLOCK):
            index = order[first : first + BLOCK]
            self.x[first : first + BLOCK, :-1] = inputs.pooled(examples, index)[0]
        features = self.x[:, :-1]
        # About the first row first: features that never vary are exactly 0 then, at any size.
        self.mean = features[0].clone()
        features -= self.mean
        rest = features.mean(0)
        self.mean += rest
        features -= rest
        self.scale = float(features.square().mean()) ** 0.5 or 1.0
        if not math.isfinite(self.scale):
            raise ValueError(
                f"[probe] features must be finite and their squares too, got a mean square of "
                f"{self.scale**2}; check the model, or scale the features."
            )
        features /= self.scale
        self.penalty = l2 / len(order)
        self._bias_penalty = BIAS_PRECISION / len(order)
        self._inverse = self._inverse_hessian()

    @property
    def count(self) -> int:
        return len(self._probes)

    @property
    def width(self) -> int:
        return int(self.x.shape[1])

    def _inverse_hessian(self) -> Tensor:
        x = self.x[: max(round(SAMPLE * len(self.x)), 2 * self.width)]
        hessian = x.new_empty(self.width, self.width)
        ops.multiply(x.T, x, hessian)
        hessian *= CURVATURE / len(x)
        diagonal = hessian.diagonal()
        # Where features have a direction without variance, such as after LayerNorm, and l2 is 0.
        diagonal += 1e-6 * diagonal.mean()
        diagonal[:-1] += self.penalty
        factor, failed = torch.linalg.cholesky_ex(hessian.double())
        if failed:
            raise ValueError(
                f"[probe] l2 must be above 0 for {len(self.x)} targets of {self.width - 1} "
                f"features, got {self.penalty * len(self.x):g}; pass such as 50."
            )
        return torch.cholesky_inverse(factor).float()

    def precondition(self, gradient: Tensor) -> Tensor:
        out = gradient.new_empty(gradient.shape[0] * self.classes, self.width)
        ops.multiply(gradient.flatten(0, 1), self._inverse, out)
        return out.view_as(gradient)

    def evaluate(
        self, theta: Tensor, which: Tensor, part: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Objectives `(K,)` and gradients `(K, C, d + 1)` of some probes over some targets."""
        probes = [self._probes[k] for k in which.tolist()]
        weight = theta.flatten(0, 1)
        losses = theta.new_zeros(len(probes), dtype=torch.float64)
        counted = torch.zeros_like(losses)
        gradient = torch.zeros_like(weight)
        of_block, ones = torch.empty_like(weight), theta.new_ones(len(probes))
        rows, targets = self.x[part], self._order[part]
        for first in range(0, len(rows), BLOCK):
            x, index = rows[first : first + BLOCK], targets[first : first + BLOCK]
            wanted = self._labels.wanted(probes, index)
            classes = wanted.targets.flatten(0, -2)
            finite = ops.linear_gradient(x, weight, None, classes, ones, losses, of_block, None)
            require_finite(finite, losses)
            counted += wanted.counted
            gradient += of_block
        # Sigmoid losses are means over labels too; their objective is the sum over labels.
        terms = (counted if self._labels.exclusive else counted / self.classes).clamp(min=1)
        gradient = gradient.view_as(theta) / terms.float()[:, None, None]
        penalties = theta.new_full((self.width,), self.penalty)
        penalties[-1] = self._bias_penalty
        gradient += penalties * theta
        penalty = (penalties * theta.square()).sum((1, 2), dtype=torch.float64) / 2
        return losses / terms + penalty, gradient


def _approach(problem: _Problem) -> Tensor:
    """The weights `(K, C, d + 1)` after some passes of Adam."""
    k = problem.count
    theta = problem.x.new_zeros(k, problem.classes, problem.width)
    flat, everything = theta.view(k, -1), torch.arange(k, device=theta.device)
    first, second, decays = torch.zeros_like(flat), torch.zeros_like(flat), theta.new_zeros(1, k)
    starts = PASSES * list(range(0, len(problem.x), BATCH))
    for step, start in enumerate(starts, start=1):
        _, gradient = problem.evaluate(theta, everything, slice(start, start + BATCH))
        rates = theta.new_full((k,), RATE * (1 - (step - 1) / len(starts)))
        ops.adam([flat], [gradient.view(k, -1)], [first], [second], None, rates, decays, step)
    return theta


def _descend(
    problem: _Problem, theta: Tensor, most_steps: int, tolerance: float
) -> tuple[Tensor, Optimum]:
    """L-BFGS with a step length, a memory and an end for each problem of its own."""
    k = len(theta)
    going = torch.arange(k, device=theta.device)
    objective, gradient = problem.evaluate(theta, going)
    zeros = torch.zeros_like(objective)
    best = Optimum(objective.clone(), torch.zeros_like(going), zeros, problem.penalty)
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    stuck = torch.zeros_like(going, dtype=torch.bool)
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
        step, objective, after = _search(problem, theta, going, objective, direction, gain)
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
    objective: Tensor,
    direction: Tensor,
    gain: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each problem's step until it takes off enough; steps, objectives and gradients."""
    step = theta.new_ones(len(going))
    reached, gradient = objective.clone(), torch.empty_like(direction)
    left = torch.arange(len(going), device=going.device)
    while len(left):
        there = theta[going[left]] - step[left, None, None] * direction[left]
        reached[left], gradient[left] = problem.evaluate(there, going[left])
        enough = reached[left] <= objective[left] - SUFFICIENT * step[left] * gain[left]
        # Below this the objective is as low as its rounding lets it be told.
        enough |= step[left] < SMALLEST_STEP
        left = left[~enough]
        step[left] /= 2
    return step, reached, gradient


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """`(K,)` float64 inner products."""
    return (a * b).sum((1, 2), dtype=torch.float64)
