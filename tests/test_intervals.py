"""Jackknife intervals: the estimator, its laws, and coverage of a known truth by simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bertft import Moments
from bertft import similarity as s
from bertft.similarity.intervals import Interval, difference, interval, standard_error
from tests.test_similarity import related


def parts_of(x, y, bounds):
    return [Moments.of(x[i:j], y[i:j]) for i, j in itertools.pairwise(bounds)]


def test_groups_of_one_size_give_the_textbook_jackknife():
    random = np.random.default_rng(0)
    rows = random.normal(size=(20, 7))
    whole, without = rows.var(), [np.delete(rows, g, axis=0).var() for g in range(20)]
    error = standard_error(whole, without, [7] * 20)
    assert error == pytest.approx(math.sqrt(19 / 20 * np.sum((without - np.mean(without)) ** 2)))
    found = interval(whole, without, [7] * 20)
    half = stats.t.ppf(0.975, 19) * error
    assert found == pytest.approx((whole, whole - half, whole + half, error))


def test_the_error_of_a_mean_over_unequal_groups_is_that_of_its_groups():
    # For a mean the pseudo-values are the groups' own means.
    random = np.random.default_rng(1)
    sizes = [3, 9, 4, 12, 6, 7]
    groups = [random.normal(size=n) for n in sizes]
    total = np.concatenate(groups)
    without = [np.concatenate([z for z in groups if z is not g]).mean() for g in groups]
    h = len(total) / np.array(sizes)
    means = np.array([z.mean() for z in groups])
    expected = np.mean((means - total.mean()) ** 2 / (h - 1))
    assert standard_error(total.mean(), without, sizes) == pytest.approx(math.sqrt(expected))


def test_groups_without_rows_are_refused():
    x, y = related(n=60)
    parts = parts_of(x, y, [0, 10, 20, 30, 40, 50, 60])
    with pytest.raises(ValueError, match=r"\[jackknife\] groups must have rows, got .*0"):
        s.jackknife(s.cka, [*parts, parts[0] - parts[0]])


def test_a_jackknife_leaves_out_groups():
    x, y = related(n=100)
    bounds = [0, 15, 35, 50, 70, 80, 100]
    found = s.jackknife(lambda m: s.cca(m).value, parts_of(x, y, bounds))
    keep = [np.r_[0:i, j:100] for i, j in itertools.pairwise(bounds)]
    without = [s.cca(x[own], y[own]).value for own in keep]
    expected = interval(s.cca(x, y).value, without, np.diff(bounds).tolist())
    assert found == pytest.approx(expected, abs=1e-10)


def test_what_does_not_vary_has_no_width():
    x, _ = related(n=100)
    found = s.jackknife(s.cka, parts_of(x, 3 * x, range(0, 101, 10)))
    assert found == pytest.approx((1, 1, 1, 0), abs=1e-12)
    assert difference(found, found, (10, 10)) == pytest.approx((0, 0, 0, 0), abs=1e-12)
    assert difference(Interval(1, 1, 1, 0.0), Interval(0.5, 0, 0, 0.0), (5, 5)) == (
        0.5,
        0.5,
        0.5,
        0,
    )


def test_differences_are_welchs():
    random = np.random.default_rng(2)
    a, b = random.normal(size=12), 3 * random.normal(size=9) + 1
    means = [
        interval(z.mean(), [np.delete(z, i).mean() for i in range(len(z))], [1] * len(z))
        for z in (a, b)
    ]
    found = difference(*means, (12, 9))
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("groups", [0, 1, 4])
def test_fewer_than_five_groups_are_refused(groups):
    x, y = related(n=40)
    parts = parts_of(x, y, np.linspace(0, 40, groups + 1).astype(int)) if groups else []
    with pytest.raises(ValueError, match=rf"\[jackknife\] groups must be at least 5, got {groups}"):
        s.jackknife(s.cka, parts)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(20, 120),
    d=st.integers(1, 8),
    cuts=st.lists(st.integers(1, 119), max_size=4),
    seed=st.integers(0, 99),
)
def test_taking_a_part_away_undoes_adding_it(n, d, cuts, seed):
    random = np.random.default_rng(seed)
    x, y = (torch.from_numpy(random.normal(size=(n, d)) + 3.0) for _ in range(2))
    bounds = [0, *sorted({c for c in cuts if c < n}), n]
    parts = parts_of(x, y, bounds)
    whole = sum(parts)
    for part, (i, j) in zip(parts, itertools.pairwise(bounds), strict=True):
        rest = whole - part
        assert rest.n == n - (j - i)
        if rest.n > 2:
            keep = np.r_[0:i, j:n]
            for row_map in ("raw", "unit"):
                found = rest.under(row_map).scatter("x", "y")
                expected = Moments.of(x[keep], y[keep]).under(row_map).scatter("x", "y")
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * n)
    for a, b in (("x", "y"), ("x", "x")):
        assert (whole - whole).under("raw").cross(a, b).product.abs().max() < 1e-9 * n


def test_empty_moments_start_about_the_same_origins():
    x, y = (torch.from_numpy(z) for z in related())
    first = Moments.of(x[:50], y[:50])
    second = first.empty()
    second.update({"x": x[50:], "y": y[50:]})
    for side in ("x", "y"):
        origins = [m.under("raw").origins[side] for m in (first, second)]
        assert torch.equal(*origins)
    assert s.cka(first + second) == pytest.approx(s.cka(x, y), abs=1e-12)
    assert first.empty().n == 0
    first.empty().update({"x": x, "y": y})
    assert s.cka(first) == s.cka(x[:50], y[:50])


def test_more_than_the_whole_cannot_be_taken_away():
    x, y = related()
    few, many = Moments.of(x[:50], y[:50]), Moments.of(x, y)
    with pytest.raises(
        ValueError, match="part must have at most the 50 rows of the whole, got 400"
    ):
        few - many
    with pytest.raises(ValueError, match="parts must have the same sides"):
        many - Moments.of(x[:50], y[:50], row_maps=["raw"])


SENTENCES, WORDS, D = 400, 5, 6


def population():
    """Loadings of words and sentences on x, and of x on y, and the covariances that they make."""
    random = np.random.default_rng(7)
    scales = np.linspace(0.5, 1.5, D)
    words, sentences = (random.normal(size=(D, D)) * scales / D**0.5 for _ in range(2))
    onto = random.normal(size=(D, D)) / D**0.5
    own = words.T @ words + 0.3 * sentences.T @ sentences
    noise = 0.5
    return words, sentences, onto, own, own @ onto, onto.T @ own @ onto + noise * np.eye(D)


def draw(random, sentences, words_each):
    words, of_sentence, onto, *_ = population()
    effects = np.repeat(random.normal(size=(sentences, D)), words_each, axis=0)
    x = random.normal(size=(sentences * words_each, D)) @ words + 0.3**0.5 * effects @ of_sentence
    x += 0.5  # rows with a common direction, as those of transformers
    return x, x @ onto + 0.5**0.5 * random.normal(size=x.shape)


def truths():
    *_, own, cross, other = population()
    x, y = draw(np.random.default_rng(99), 300_000, 1)
    aligned = np.linalg.norm(cross) ** 2 / np.linalg.norm(own) / np.linalg.norm(other)
    nuclear = np.linalg.norm(cross, "nuc") / math.sqrt(np.trace(own) * np.trace(other))
    return {
        "rsa": s.rsa(x, y),
        "cka_debiased": aligned,
        "procrustes": math.sqrt(2 - 2 * nuclear),
    }


# Of 40 draws at 95 %, fewer than 33 cover once in 3,000 times; the 500 are held to 92 to 98 %.
@pytest.mark.parametrize(
    ("draws", "least", "most"),
    [(40, 33 / 40, 1.0), pytest.param(500, 0.92, 0.98, marks=pytest.mark.real_long)],
    ids=["40", "500"],
)
def test_intervals_cover_the_truth(draws, least, most):
    expected = truths()
    covered = dict.fromkeys(expected, 0)
    rows = SENTENCES * WORDS
    for seed in range(draws):
        x, y = draw(np.random.default_rng(seed), SENTENCES, WORDS)
        parts = parts_of(x, y, range(0, rows + 1, rows // 20))
        whole = sum(parts)
        without = [whole - part for part in parts]
        for name, truth in expected.items():
            compute = s.MEASURES[name].compute
            found = interval(compute(whole), [compute(rest) for rest in without], [rows // 20] * 20)
            covered[name] += found.low <= truth <= found.high
    shares = {name: count / draws for name, count in covered.items()}
    print(shares)
    assert all(least <= share <= most for share in shares.values()), shares


def test_the_interval_of_a_biased_measure_misses_the_truth():
    # At 8 rows for each column, mean rho of 40 columns is far above that of the population, 0.
    random = np.random.default_rng(0)
    x, y = random.normal(size=(320, 40)), random.normal(size=(320, 40))
    parts = parts_of(x, y, range(0, 321, 16))
    biased = s.jackknife(lambda m: s.cca(m).value, parts)
    assert biased.low > 0.1
    debiased = s.jackknife(lambda m: s.cka(m, debiased=True), parts)
    assert debiased.low < 0 < debiased.high
