"""Linear probes at their optimum and in closed form, against scikit-learn and SciPy."""

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional

from bertft.moments import Moments
from bertft.probing.bank import Probe, Split
from bertft.probing.closed_form import lda, ridge
from bertft.probing.examples import Examples, Inputs
from bertft.probing.labels import Labels
from bertft.probing.linear import LinearBank
from bertft.probing.logistic import solve

N, D, C = 1500, 20, 6


def features(kind, seed=0):
    """Rows and classes; `kind` says what makes the problem hard."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) * np.geomspace(1, 0.01 if kind == "ill-conditioned" else 0.3, D)
    if kind == "offset":
        x += 30
    if kind == "null direction":
        # As after LayerNorm: every row adds up to 0.
        x -= x.mean(1, keepdims=True)
    scale = 1 / x.std(0).clip(1e-6)
    logits = (x - x.mean(0)) * scale @ rng.normal(size=(D, C)) * 0.5
    classes = np.array([rng.choice(C, p=np.exp(z) / np.exp(z).sum()) for z in logits])
    return torch.tensor(x, dtype=torch.float32), torch.tensor(classes)


def split(x, sets, exclusive, part):
    rows = torch.arange(N)[:, None]
    whole = Split(Inputs([x]), Examples(rows, rows + 1, torch.arange(N)), Labels(sets, exclusive))
    return whole.take(torch.arange(N)[part])


TRAIN, DEV = slice(0, 1000), slice(1000, N)


@pytest.mark.parametrize("kind", ["plain", "offset", "ill-conditioned", "null direction"])
@pytest.mark.parametrize("l2", [1, 100])
def test_softmax_probes_have_the_loss_of_logistic_regression(kind, l2):
    x, y = features(kind)
    sets = [functional.one_hot(y, C).byte(), functional.one_hot(y.roll(1), C).byte()]
    train, dev = (split(x, sets, True, part) for part in (TRAIN, DEV))
    bank = LinearBank([Probe(s, labels=labels) for labels in (0, 1) for s in (0, 1)], C, True, D)
    found = solve(bank, train, l2)
    assert torch.equal(bank.parameters["weight"][0], bank.parameters["weight"][1])
    losses = bank.losses(dev, 100, "targets")
    # The intercept is free: centering changes nothing but how near the optimum the oracle gets.
    centered = (x - x[TRAIN].mean(0)).double().numpy()
    for k, classes in ((0, y), (2, y.roll(1))):
        oracle = LogisticRegression(C=1 / (found.penalty * 1000), tol=1e-8, max_iter=50_000)
        oracle.fit(centered[TRAIN], classes[TRAIN].numpy())
        likelihoods = oracle.predict_log_proba(centered[DEV])
        expected = -likelihoods[np.arange(500), classes[DEV].numpy()]
        assert abs(float(losses[k]) - expected.mean()) < 1e-3


def test_sigmoid_probes_have_the_loss_of_logistic_regressions():
    x, y = features("plain")
    labels = functional.one_hot(y, C).byte()
    labels[:, 2] |= (x[:, 0] > 0).byte()
    train, dev = (split(x, [labels], False, part) for part in (TRAIN, DEV))
    bank = LinearBank([Probe()], C, False, D)
    found = solve(bank, train, 10)
    z = bank.logits(dev, torch.arange(500))[0].T
    for c in range(C):
        oracle = LogisticRegression(C=1 / (found.penalty * 1000), tol=1e-8, max_iter=5000)
        oracle.fit(x[TRAIN].double().numpy(), labels[TRAIN, c].numpy())
        expected = oracle.decision_function(x[DEV].double().numpy())
        loss = functional.binary_cross_entropy_with_logits(
            z[:, c].double(), labels[DEV, c].double()
        )
        wanted = functional.binary_cross_entropy_with_logits(
            torch.tensor(expected), labels[DEV, c].double()
        )
        assert abs(float(loss - wanted)) < 1e-3


def test_the_gradient_vanishes_at_the_optimum():
    x, y = features("plain")
    train = split(x, [functional.one_hot(y, C).byte()], True, TRAIN)
    bank = LinearBank([Probe()], C, True, D)
    found = solve(bank, train, 10, tolerance=1e-9)
    weight, bias = (bank.parameters[name][0].double() for name in ("weight", "bias"))
    weight.requires_grad_()
    loss = functional.cross_entropy(x[TRAIN].double() @ weight.T + bias, y[TRAIN])
    objective = loss + found.penalty / 2 * weight.square().sum()
    [gradient] = torch.autograd.grad(objective, [weight])
    assert float(gradient.abs().max()) < 1e-4
    assert abs(float(objective.detach()) - float(found.objective)) < 1e-6


def test_the_scale_of_features_does_not_matter():
    x, y = features("plain")
    losses = []
    for scale in (1, 1000):
        train, dev = (
            split(scale * x, [functional.one_hot(y, C).byte()], True, part) for part in (TRAIN, DEV)
        )
        bank = LinearBank([Probe()], C, True, D)
        solve(bank, train, 10)
        losses.append(float(bank.losses(dev, 100, "targets")))
    assert abs(losses[0] - losses[1]) < 1e-4


def test_features_that_never_vary_leave_the_prior():
    y = torch.arange(N) % 3 % 2
    train = split(torch.full((N, D), 3.3), [functional.one_hot(y, C).byte()], True, TRAIN)
    bank = LinearBank([Probe()], C, True, D)
    found = solve(bank, train, 50)
    loss = float(bank.losses(train, 100, "targets"))
    assert loss == pytest.approx(float(found.objective), abs=2e-3)
    assert loss == pytest.approx(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)), abs=1e-3)


@pytest.mark.parametrize(
    ("x", "l2", "message"),
    [
        (torch.randn(N, D) * 1e25, 50, "features must be finite and their squares too, got a mean"),
        (torch.full((N, D), torch.nan), 50, "features must be finite"),
    ],
)
def test_features_without_an_optimum_are_an_error(x, l2, message):
    train = split(x, [functional.one_hot(torch.arange(N) % C, C).byte()], True, TRAIN)
    with pytest.raises(ValueError, match=message):
        solve(LinearBank([Probe()], C, True, D), train, l2)


def test_too_few_targets_without_a_penalty_are_an_error():
    train = split(
        torch.randn(N, 384), [functional.one_hot(torch.arange(N) % C, C).byte()], True, slice(3)
    )
    with pytest.raises(ValueError, match="l2 must be above 0 for 3 targets of 384 features, got 0"):
        solve(LinearBank([Probe()], C, True, 384), train, 0)


def test_a_penalty_below_zero_is_an_error():
    x, y = features("plain")
    train = split(x, [functional.one_hot(y, C).byte()], True, TRAIN)
    with pytest.raises(ValueError, match=r"l2 must be at least 0, got -1"):
        solve(LinearBank([Probe()], C, True, D), train, -1)


def labeled(x, y, parts=1):
    one_hot = functional.one_hot(y, C).double()
    pieces = zip(x.double().chunk(parts), one_hot.chunk(parts), strict=True)
    return sum(Moments.of(a, b, row_maps=["raw"]) for a, b in pieces)


@pytest.mark.parametrize("parts", [1, 4])
def test_ridge_from_sums_is_scikit_learns(parts):
    x, y = features("offset")
    found = ridge(labeled(x, y, parts), 15)
    alpha = 15 * float(x.double().var(0, correction=0).mean())
    oracle = Ridge(alpha=alpha).fit(x.double().numpy(), np.eye(C)[y])
    np.testing.assert_allclose(found.weight, oracle.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.bias, oracle.intercept_, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["plain", "offset"])
def test_lda_from_sums_is_the_posterior_of_gaussian_classes(kind):
    x, y = features(kind)
    found = torch.softmax(lda(labeled(x, y, 3)).logits(x), 1)
    rows, classes = x.double().numpy(), y.numpy()
    means = np.stack([rows[classes == c].mean(0) for c in range(C)])
    residuals = rows - means[classes]
    covariance = residuals.T @ residuals / (N - C)
    log = np.stack(
        [
            scipy.stats.multivariate_normal(means[c], covariance).logpdf(rows)
            + np.log((classes == c).mean())
            for c in range(C)
        ],
        1,
    )
    posterior = np.exp(log - log.max(1, keepdims=True))
    np.testing.assert_allclose(found, posterior / posterior.sum(1, keepdims=True), atol=1e-8)


def test_lda_leaves_out_directions_without_variance():
    x, y = features("null direction")
    basis = np.linalg.svd(np.eye(D) - 1 / D)[0][:, :-1]
    inside = lda(labeled(x @ torch.tensor(basis, dtype=torch.float32), y)).logits(
        x.double() @ torch.tensor(basis)
    )
    np.testing.assert_allclose(lda(labeled(x, y)).logits(x), inside, rtol=1e-4, atol=1e-4)


def test_closed_forms_refuse_what_they_cannot_use():
    x, y = features("plain")
    with pytest.raises(ValueError, match=r"l2 must be above 0, got 0"):
        ridge(labeled(x, y), 0)
    with pytest.raises(ValueError, match=r"every class with a row .* got \[\d+, 0, "):
        lda(labeled(x, torch.where(y == 1, 0, y)))
    twice = Moments.of(x.double(), torch.ones(N, C).double(), row_maps=["raw"])
    with pytest.raises(ValueError, match=r"labels must be one for each row"):
        lda(twice)
