"""The Triton kernels that train probes, against the reference and torch's autograd in float64."""

from itertools import chain, pairwise

import pytest
import torch
from torch.utils._pytree import tree_map_only

from bertft import ops
from bertft.ops import backends
from bertft.ops.checks import Call
from tests.attended import SPANS, check_attended
from tests.edge_gradients import asked, check
from tests.tolerances import name

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN, INFINITY = float("nan"), float("inf")
# The interpreter computes with NumPy, which warns where a GPU does not.
not_finite = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype).to(DEVICE)


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).to(DEVICE)


def targets_of(kind, n, sizes):
    """Targets of probes of these sizes, of which some do not count."""
    if kind == "softmax":
        targets = torch.stack([torch.randint(-1, size, (n,)) for size in sizes])
    else:
        choice = torch.randint(0, 3, (sum(sizes), n))
        targets = torch.tensor([0, 1, 255], dtype=torch.uint8)[choice]
    return targets.to(DEVICE)


def lost(kind, logits, offsets, targets, backend="triton", start=1.0):
    gradients = logits.clone()
    losses = torch.full((len(offsets) - 1,), start, dtype=torch.float64, device=DEVICE)
    op = ops.softmax_gradient if kind == "softmax" else ops.sigmoid_gradient
    is_finite = op(gradients, offsets, targets, losses, backend=backend)
    return gradients, losses - start, is_finite


@pytest.mark.parametrize("scale", [0.01, 40.0])
@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (67, [17] * 3), (9, [3, 700, 2, 260])], ids=str)
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_losses_and_gradients(kind, n, sizes, scale):
    logits, offsets, targets = randn(sum(sizes), n) * scale, offsets_of(sizes), None
    targets = targets_of(kind, n, sizes)
    gradients, losses, is_finite = lost(kind, logits, offsets, targets)
    assert is_finite
    wide = logits.double().requires_grad_()
    for k, (start, stop) in enumerate(pairwise(offsets.tolist())):
        own = wide[start:stop].T
        if kind == "softmax":
            expected = torch.nn.functional.cross_entropy(
                own, targets[k], ignore_index=-1, reduction="sum"
            )
        else:
            labels = targets[start:stop].T
            expected = torch.nn.functional.binary_cross_entropy_with_logits(
                own, (labels == 1).double(), (labels != 255).double(), reduction="sum"
            )
        expected.backward()
        torch.testing.assert_close(losses[k], expected.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients.double(), wide.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_small_losses_keep_their_digits(kind):
    logits = torch.tensor([[20.0], [-20.0]], device=DEVICE).repeat(1, 40)
    target = torch.zeros(1, 40, dtype=torch.int64, device=DEVICE)
    if kind == "sigmoid":
        target = torch.tensor([[1], [0]], dtype=torch.uint8, device=DEVICE).repeat(1, 40)
    found = lost(kind, logits, offsets_of([2]), target, start=0.0)[1]
    expected = lost(kind, logits, offsets_of([2]), target, "reference", start=0.0)[1]
    assert 0.0 < found.item() == pytest.approx(expected.item(), rel=2e-6)


def test_extreme_logits():
    logits = torch.tensor([[1e4, -1e4, -3e38], [-1e4, 1e4, 1e4], [0.0, 3e38, 1e4]], device=DEVICE)
    targets = torch.tensor([[0, 0, 1]], device=DEVICE)
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 255]], dtype=torch.uint8, device=DEVICE)
    for kind, of in (("softmax", targets), ("sigmoid", labels)):
        gradients, losses, is_finite = lost(kind, logits, offsets_of([3]), of)
        expected = lost(kind, logits, offsets_of([3]), of, "reference")
        assert is_finite
        torch.testing.assert_close(gradients, expected[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(losses, expected[1], rtol=1e-6, atol=0)


@not_finite
@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_logits_that_are_not_finite_are_told(kind, bad):
    logits, offsets = randn(23, 5), offsets_of([20, 3])
    targets = targets_of(kind, 5, [20, 3]).clamp(0, 1)
    logits[21, 3] = bad
    assert not lost(kind, logits, offsets, targets)[2]
    targets[1 if kind == "softmax" else 21, 3] = -1 if kind == "softmax" else 255
    gradients, losses, is_finite = lost(kind, logits, offsets, targets)
    assert is_finite
    assert gradients.isfinite().all()
    assert losses.isfinite().all()
    assert gradients[21, 3] == 0.0


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_wrong_targets_are_refused_and_nothing_to_lose_is_nothing(kind):
    logits, offsets = randn(7, 5), offsets_of([4, 3])
    targets = targets_of(kind, 5, [4, 3])
    targets[1, 2] = 7
    with pytest.raises(ValueError, match=r"targets must be .* got 7 for target 2 of probe"):
        lost(kind, logits, offsets, targets)
    for n, sizes in ((0, [3, 2]), (4, [])):
        empty = targets_of(kind, n, sizes) if sizes else torch.zeros(0, 4, device=DEVICE)
        empty = empty.to(torch.int64 if kind == "softmax" else torch.uint8)
        _, losses, is_finite = lost(kind, randn(sum(sizes), n), offsets_of(sizes), empty)
        assert is_finite
        assert not losses.any()


@pytest.mark.parametrize("has_biases", [True, False])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_gradients_of_linear_probes(kind, has_biases):
    probes, labels, n, d = 3, 5, 37, 12
    x, weights, targets = randn(n, d), randn(probes * labels, d), targets_of(kind, n, [5] * 3)
    biases, scales = randn(probes * labels) if has_biases else None, randn(probes).abs()
    found = {}
    for backend in ("triton", "reference"):
        losses = torch.ones(probes, dtype=torch.float64, device=DEVICE)
        of_weights = torch.full_like(weights, NAN)
        of_biases = None if biases is None else torch.full_like(biases, NAN)
        given = (x, weights, biases, targets, scales, losses, of_weights, of_biases)
        assert ops.linear_gradient(*given, backend=backend)
        found[backend] = (of_weights, losses, *([] if of_biases is None else [of_biases]))
    for own, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(own, other, rtol=2e-6, atol=2e-6 * float(other.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("is_amsgrad", [False, True])
@pytest.mark.parametrize("shapes", [[(1, 1)], [(3, 5), (3, 1)], [(2, 1500), (2, 3)]], ids=str)
def test_adam(shapes, is_amsgrad, clip, dtype):
    weights, rows = [randn(*shape) for shape in shapes], shapes[0][0]
    decays = torch.rand(len(shapes), rows, dtype=dtype).to(DEVICE)
    rates = torch.tensor([0.1, 0.0, 1e-3], dtype=dtype, device=DEVICE)[:rows]
    states = {
        backend: [
            [w.clone() for w in weights],
            *([torch.zeros_like(w) for w in weights] for _ in "123"),
        ]
        for backend in ("triton", "reference")
    }
    for step in range(1, 4):
        gradients = [randn(*shape) / step**3 for shape in shapes]
        for backend, (own, first, second, largest) in states.items():
            ops.adam(
                own,
                gradients,
                first,
                second,
                largest if is_amsgrad else None,
                rates,
                decays,
                step,
                betas=(0.8, 0.999),
                clip=clip,
                backend=backend,
            )
    for found, expected in zip(*(chain(*state) for state in states.values()), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-6)
    assert torch.equal(states["triton"][0][0][1:2], weights[0][1:2])


def structural(kind, lengths):
    """Depths of the words of random trees, or the distances between them."""
    places = [torch.randint(0, 9, (n,)).float() for n in lengths]
    if kind == "distance":
        places = [(x[:, None] - x).abs().flatten() for x in places]
    return torch.cat(places).to(DEVICE)


def differentiated(kind, projected, lengths, gold, probes, backend="triton"):
    """What becomes of projected rows between columns that must stay as they are."""
    whole = torch.full((len(projected), projected.shape[1] + 6), NAN, device=DEVICE)
    own = whole[:, 3:-3]
    own.copy_(projected)
    losses = torch.ones(probes, dtype=torch.float64, device=DEVICE)
    op = ops.distance_gradient if kind == "distance" else ops.depth_gradient
    is_finite = op(own, offsets_of(lengths), gold, losses, backend=backend)
    assert whole[:, :3].isnan().all()
    assert whole[:, -3:].isnan().all()
    return own.clone(), losses - 1.0, is_finite


@pytest.mark.parametrize("lengths", [[1], [2, 1, 35]], ids=str)
@pytest.mark.parametrize(("probes", "rank"), [(3, 5), (1, 70)])
@pytest.mark.parametrize("kind", ["distance", "depth"])
def test_structural_losses(kind, probes, rank, lengths):
    projected, gold = randn(sum(lengths), probes * rank) * 2 / rank**0.5, structural(kind, lengths)
    found, losses, is_finite = differentiated(kind, projected, lengths, gold, probes)
    assert is_finite
    leaf = projected.double().requires_grad_()
    golds = gold.double().split([n * n if kind == "distance" else n for n in lengths])
    expected = torch.zeros(probes, dtype=torch.float64, device=DEVICE)
    for words, own in zip(leaf.split(lengths), golds, strict=True):
        for k, p in enumerate(words.chunk(probes, dim=1)):
            n = len(p)
            if kind == "distance":
                errors = (p[:, None] - p).square().sum(dim=2) - own.view(n, n)
                expected[k] = expected[k] + errors.abs().sum() / n**2
            else:
                expected[k] = expected[k] + (p.square().sum(dim=1) - own).abs().sum() / n
    expected.sum().backward()
    torch.testing.assert_close(losses, expected.detach(), rtol=2e-6, atol=1e-6)
    largest = float(leaf.grad.abs().max())
    torch.testing.assert_close(found.double(), leaf.grad, rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize("kind", ["distance", "depth"])
def test_errors_of_zero_have_no_gradient(kind):
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], device=DEVICE)
    squares = (points[:, None] - points).square().sum(2)
    gold = squares.flatten() if kind == "distance" else points.square().sum(1)
    found, losses, _ = differentiated(kind, points, [4], gold, 1)
    assert losses.item() == 0.0
    assert not found.any()


def test_distances_keep_their_digits_where_rows_are_far_from_zero():
    gold, projected = structural("distance", [40, 20]), randn(60, 32) + 1000.0
    found, losses, _ = differentiated("distance", projected, [40, 20], gold, 1)
    expected = differentiated("distance", projected, [40, 20], gold, 1, "reference")
    torch.testing.assert_close(losses, expected[1], rtol=1e-4, atol=0)
    assert (found - expected[0]).abs().max() < 1e-3 * expected[0].abs().max()


@not_finite
@pytest.mark.parametrize("kind", ["distance", "depth"])
@pytest.mark.parametrize("bad", [NAN, INFINITY])
def test_structural_losses_that_are_not_finite_are_told(kind, bad):
    for lengths in ([3, 6], [4, 1, 4]):
        projected = randn(9, 8)
        projected[4, 5] = bad
        gold = structural(kind, lengths)
        _, losses, is_finite = differentiated(kind, projected, lengths, gold, 2)
        assert not is_finite
        assert losses[0].isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
@pytest.mark.parametrize("spans", SPANS, ids=str)
@pytest.mark.parametrize(("probes", "width"), [(1, 1), (3, 40)])
def test_spans_are_attended(spans, probes, width, dtype):
    check_attended("triton", spans, probes, width, dtype, DEVICE)


@pytest.mark.parametrize("span", [(1, 1), (3, 2), (-1, 1), (3, 5)])
def test_spans_outside_the_rows_are_refused(span):
    x, weight = randn(4, 2, 3), randn(2, 3)
    starts, stops = torch.tensor([(0, 1), span], device=DEVICE).T.contiguous()
    outputs = randn(2, 2, 3), randn(2, 2)
    with pytest.raises(ValueError, match=r"\[attend_spans\] spans must be .* got .* at 1"):
        ops.attend_spans(x, weight, starts, stops, *outputs, backend="triton")


@pytest.mark.parametrize("softmax", [False, True], ids=["sigmoid", "softmax"])
def test_gradients_of_edge_probes_are_composed_of_kernels(softmax, monkeypatch):
    if DEVICE == "cpu":  # stands in for a GPU
        taken = {**backends.DEVICES, "native": "none", "triton": "cpu"}
        monkeypatch.setattr(backends, "DEVICES", taken)
    given = asked(softmax=softmax, own=True)
    given = tree_map_only(torch.Tensor, lambda tensor: tensor.to(DEVICE), given)
    chosen = backends.choose_backend(Call("attend_spans"), None, [given["scales"]])
    assert chosen.__name__ == "bertft.ops.triton"
    check(given, None)
