"""The operations that train probes, over every backend and instruction set, against float64."""

import math
from contextlib import nullcontext
from itertools import pairwise

import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import _native, ops
from bertft.ops import native
from bertft.ops.native.running import view
from tests.tolerances import PRODUCTS, name

RUNS = [("reference", None), ("eager", None), *(("native", isa) for isa in native.available_isas())]
NATIVE = [run for run in RUNS if run[0] == "native"]
SHAPES = [(1, 1, 1), (2, 3, 5), (63, 60, 17), (257, 100, 85), (256, 768, 425), (85, 3000, 50)]
NAN = float("nan")


def on(isa):
    return native.using_isa(isa) if isa else nullcontext()


@pytest.fixture(params=RUNS, ids=lambda run: run[1] or run[0])
def backend(request):
    """The name of every backend in turn, the native one on every instruction set."""
    with on(request.param[1]):
        yield request.param[0]


@pytest.fixture(params=NATIVE, ids=lambda run: run[1])
def isa(request):
    with on(request.param[1]):
        yield request.param[1]


def with_threads(count, call):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


def multiplied(a, b, backend=None, padding=0):
    """The product, written between columns that must stay as they are."""
    whole = torch.full((len(a), b.shape[1] + 2 * padding), NAN, dtype=a.dtype)
    out = whole[:, padding : padding + b.shape[1]]
    ops.multiply(a, b, out, backend=backend)
    assert whole[:, :padding].isnan().all()
    assert whole[:, padding + b.shape[1] :].isnan().all()
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_multiply(backend, shape, dtype):
    m, k, n = shape
    # Fresh workspaces are full of what was there before: poisoned.
    multiplied(
        torch.full((m, k), NAN, dtype=dtype).T.contiguous().T, torch.full((k, n), NAN).to(dtype)
    )
    a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    expected = a.double() @ b.double()
    for left in (a, a.T.contiguous().T, a.repeat_interleave(2, 1)[:, ::2]):
        for right in (b, b.T.contiguous().T, b.repeat_interleave(3, 1)[:, ::3]):
            found = multiplied(left, right, backend, padding=3)
            error = (found - expected).abs().max()
            assert error <= PRODUCTS[dtype] * expected.abs().max()


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (4, 3, 0, 5), (3, 37, 300, 50), (25, 8, 9, 5)])
def test_many_products_have_the_bits_of_each(backend, shape):
    count, m, k, n = shape
    a, b = torch.randn(m, count, k).transpose(0, 1), torch.randn(count, n, k).mT
    out = torch.full((m, count, n), NAN)
    for threads in (1, 3):
        with_threads(threads, lambda: ops.multiply(a, b, out.transpose(0, 1), backend=backend))
        if backend == "native":
            each = [multiplied(x, y, backend) for x, y in zip(a, b, strict=True)]
            assert all(torch.equal(out[:, i], own) for i, own in enumerate(each))
        expected = a.double() @ b.double()
        error = (out.transpose(0, 1) - expected).abs()
        assert (error <= PRODUCTS[torch.float32] * expected.abs().amax((1, 2), keepdim=True)).all()


@settings(max_examples=100, deadline=None)
@given(
    m=st.integers(0, 70),
    k=st.integers(0, 40) | st.integers(250, 600),
    n=st.integers(0, 150),
    steps=st.tuples(*[st.integers(1, 3)] * 4),
    turned=st.tuples(st.booleans(), st.booleans()),
    padding=st.integers(0, 5),
    isa=st.sampled_from(native.available_isas()),
)
def test_any_strides_multiply_to_the_bits_of_copies(m, k, n, steps, turned, padding, isa):
    def strided(rows, columns, steps, is_turned):
        shape = (rows * steps[0], columns * steps[1])
        whole = torch.randn(shape[::-1]).T if is_turned else torch.randn(shape)
        return whole[:: steps[0], :: steps[1]]

    torch.manual_seed(m)
    a, b = strided(m, k, steps[:2], turned[0]), strided(k, n, steps[2:], turned[1])
    with native.using_isa(isa):
        found = multiplied(a, b, "native", padding)
        copied = multiplied(*(x.clone(memory_format=torch.contiguous_format) for x in (a, b)))
        threaded = with_threads(4, lambda: multiplied(a, b, "native"))
    assert torch.equal(found, copied)
    assert torch.equal(found, threaded)
    torch.testing.assert_close(found, (a.double() @ b.double()).float(), rtol=1e-5, atol=1e-4)


def test_a_row_that_repeats_multiplies(backend):
    a, b = torch.randn(1, 9).expand(20, 9), torch.randn(9, 1).expand(9, 30)
    torch.testing.assert_close(multiplied(a, b, backend), a @ b, rtol=1e-5, atol=1e-6)


def test_long_sums_keep_their_digits(isa):
    a, b = torch.rand(3, 200_000), torch.rand(200_000, 20)
    expected = a.double() @ b.double()
    torch.testing.assert_close(multiplied(a, b).double(), expected, rtol=2e-6, atol=0)


def probes(n, sizes, scale=2.0):
    """Logits of probes of these sizes; targets and labels of which some do not count."""
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    logits = torch.randn(sum(sizes), n) * scale
    targets = torch.stack([torch.randint(-1, size, (n,)) for size in sizes])
    labels = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(0, 3, logits.shape)]
    return logits, offsets, targets, labels


def softmax(logits, offsets, targets, backend=None, start=0.0):
    gradients = logits.clone()
    losses = torch.full((len(offsets) - 1,), start).double()
    is_finite = ops.softmax_gradient(gradients, offsets, targets, losses, backend=backend)
    return gradients, losses, is_finite


def sigmoid(logits, offsets, labels, backend=None, start=0.0):
    gradients = logits.clone()
    losses = torch.full((len(offsets) - 1,), start).double()
    is_finite = ops.sigmoid_gradient(gradients, offsets, labels, losses, backend=backend)
    return gradients, losses, is_finite


SIZES = [[1], [2], [17] * 5, [3, 1, 50, 16, 32, 33, 48, 64, 65, 700]]


@pytest.mark.parametrize("scale", [0.01, 2.0, 40.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("n", [1, 15, 257])
def test_softmax_gradient(backend, n, sizes, scale):
    logits, offsets, targets, _ = probes(n, sizes, scale)
    gradients, losses, is_finite = softmax(logits, offsets, targets, backend, start=1.0)
    assert is_finite
    # Oracle: autograd of torch's own loss, in float64.
    wide = logits.double().requires_grad_()
    for k, (start, stop) in enumerate(pairwise(offsets.tolist())):
        loss = torch.nn.functional.cross_entropy(
            wide[start:stop].T, targets[k], ignore_index=-1, reduction="sum"
        )
        loss.backward()
        torch.testing.assert_close(losses[k] - 1.0, loss.detach(), rtol=1e-6, atol=1e-6 * n)
    torch.testing.assert_close(gradients.double(), wide.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 2.0, 40.0])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("n", [1, 15, 257])
def test_sigmoid_gradient(backend, n, sizes, scale):
    logits, offsets, _, labels = probes(n, sizes, scale)
    gradients, losses, is_finite = sigmoid(logits, offsets, labels, backend, start=1.0)
    assert is_finite
    counts, y, z = labels != 255, (labels == 1).double(), logits.double()
    expected = torch.where(counts, torch.from_numpy(scipy.special.expit(z.numpy())) - y, 0.0)
    torch.testing.assert_close(gradients.double(), expected, rtol=0, atol=1e-6)
    signed = torch.where(labels == 1, z, -z).numpy()
    lost = torch.where(counts, torch.from_numpy(-scipy.special.log_expit(signed)), 0.0)
    for k, (start, stop) in enumerate(pairwise(offsets.tolist())):
        total = lost[start:stop].sum()
        torch.testing.assert_close(losses[k] - 1.0, total, rtol=1e-6, atol=1e-6)


def linear(n, probes, labels, d, kind):
    """Rows, weights and biases of linear probes, targets of which some do not count, scales."""
    x, weights, biases = torch.randn(n, d), torch.randn(probes * labels, d), torch.randn(probes, 1)
    biases = biases.repeat(1, labels).flatten() + torch.randn(probes * labels)
    if kind == "softmax":
        targets = torch.randint(-1, labels, (probes, n))
    else:
        targets = torch.tensor([0, 1, 255]).byte()[torch.randint(0, 3, (probes * labels, n))]
    return x, weights / d**0.5, biases, targets, torch.rand(probes) + 0.1


def linear_gradient(x, weights, biases, targets, scales, backend=None):
    """The losses, gradients and verdict of an op that is given poisoned outputs."""
    losses = torch.zeros(len(scales)).double()
    found = [
        torch.full_like(weights, NAN),
        None if biases is None else torch.full_like(biases, NAN),
    ]
    is_finite = ops.linear_gradient(
        x, weights, biases, targets, scales, losses, *found, backend=backend
    )
    return losses, *found, is_finite


@pytest.mark.parametrize("has_biases", [True, False])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 3, 2, 5), (97, 2, 17, 63), (1030, 5, 50, 100)], ids=str
)
def test_linear_gradient(backend, shape, kind, has_biases):
    n, probes, labels, d = shape
    x, weights, biases, targets, scales = linear(n, probes, labels, d, kind)
    biases = biases if has_biases else None
    losses, of_weights, of_biases, is_finite = linear_gradient(
        x, weights, biases, targets, scales, backend
    )
    assert is_finite
    # Oracle: autograd of torch's own losses, in float64.
    wide = weights.double().requires_grad_()
    shift = (torch.zeros(probes * labels) if biases is None else biases).double().requires_grad_()
    logits = x.double() @ wide.T + shift
    if kind == "softmax":
        z = logits.view(n, probes, labels).permute(0, 2, 1)
        expected = torch.nn.functional.cross_entropy(
            z, targets.T, ignore_index=-1, reduction="none"
        ).sum(0)
    else:
        lost = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, (targets.T == 1).double(), reduction="none"
        )
        expected = torch.where(targets.T == 255, 0.0, lost).sum(0).view(probes, labels).sum(1)
    (expected * scales.double()).sum().backward()
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-6, atol=1e-6 * n)
    for own, of in ((of_weights, wide.grad), (of_biases, shift.grad)):
        if own is not None:
            largest = float(of.abs().max()) + 1e-6
            torch.testing.assert_close(own.double(), of, rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_linear_probe_has_the_bits_it_has_alone(isa, kind):
    x, weights, biases, targets, scales = linear(600, 4, 17, 130, kind)
    many = linear_gradient(x, weights, biases, targets, scales)
    threaded = with_threads(3, lambda: linear_gradient(x, weights, biases, targets, scales))
    rows, own = slice(34, 51), slice(2, 3) if kind == "softmax" else slice(34, 51)
    alone = linear_gradient(x, weights[rows], biases[rows], targets[own], scales[2:3])
    assert alone[0][0] == many[0][2]
    assert torch.equal(alone[1], many[1][rows])
    assert torch.equal(alone[2], many[2][rows])
    assert all(torch.equal(one, other) for one, other in zip(many[:3], threaded[:3], strict=True))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_linear_gradient_tells_of_logits_that_are_not_finite(backend, kind):
    x, weights, biases, targets, scales = linear(20, 2, 3, 7, kind)
    targets = targets.clamp(min=0) if kind == "softmax" else targets.clamp(max=1)
    x[11, 3] = math.inf
    assert not linear_gradient(x, weights, biases, targets, scales, backend)[3]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_linear_gradient_of_no_targets_is_zero(backend, kind):
    given = linear(0, 2, 3, 7, kind)
    losses, of_weights, of_biases, is_finite = linear_gradient(*given, backend)
    assert is_finite
    assert not any(x.any() for x in (losses, of_weights, of_biases))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(4, 7).double()}, "x must be float32 with contiguous rows of 7 columns"),
        ({"x": torch.zeros(7, 4).T}, "x must be float32 with contiguous rows"),
        ({"x": torch.zeros(4, 6)}, "x must be float32 with contiguous rows of 7 columns"),
        ({"losses": torch.zeros(4).double()}, "weights must have as many rows for each of the 4"),
        ({"targets": torch.zeros(2, 5).long()}, r"targets must be .* shape \(2, 4\)"),
        ({"targets": torch.zeros(2, 4).byte()}, r"targets must be .* shape \(6, 4\)"),
        ({"scales": torch.zeros(3)}, r"scales must be .* shape \(2,\)"),
        ({"of_weights": torch.zeros(7, 6).T}, "of_weights must be a contiguous torch.float32"),
        ({"of_biases": None}, "biases and of_biases must be given both or neither, got one"),
        ({"biases": torch.zeros(5)}, r"biases must be .* shape \(6,\)"),
        (
            {"targets": torch.full((2, 4), 3)},
            r"below the 3 labels .* got 3 for target 0 of probe 0",
        ),
        ({"targets": torch.full((6, 4), 2).byte()}, "must be 0, 1 or 255 for none, got 2 for"),
    ],
)
def test_linear_gradient_refuses(changed, message):
    given = {"x": torch.zeros(4, 7), "weights": torch.zeros(6, 7), "biases": torch.zeros(6)}
    given |= {"targets": torch.zeros(2, 4).long(), "scales": torch.zeros(2)}
    given |= {"losses": torch.zeros(2).double(), "of_weights": torch.zeros(6, 7)}
    given |= {"of_biases": torch.zeros(6), **changed}
    with pytest.raises(ValueError, match=rf"\[linear_gradient\] .*{message}"):
        ops.linear_gradient(**given)


def test_small_losses_keep_their_digits():
    for name_, isa in NATIVE:
        with on(isa):
            logits = torch.tensor([[20.0], [0.0], [0.0]]).repeat(1, 40)
            offsets, targets = torch.tensor([0, 3]), torch.zeros(1, 40, dtype=torch.int64)
            _, losses, _ = softmax(logits, offsets, targets, name_)
            expected = 40 * math.log1p(2 * math.exp(-20.0))
            assert losses[0].item() == pytest.approx(expected, rel=1e-6)
            labels = torch.tensor([[1], [255], [255]], dtype=torch.uint8).repeat(1, 40)
            _, losses, _ = sigmoid(logits, offsets, labels, name_)
            assert losses[0].item() == pytest.approx(40 * math.log1p(math.exp(-20.0)), rel=1e-6)


def test_extreme_logits(backend):
    logits = torch.tensor([[1e4, -1e4, -3e38], [-1e4, 1e4, 1e4], [0.0, 3e38, 1e4]])
    targets, offsets = torch.tensor([[0, 0, 1]]), torch.tensor([0, 3])
    gradients, losses, is_finite = softmax(logits, offsets, targets, backend)
    assert is_finite
    expected = [[0.0, -1.0, 0.0], [0.0, 0.0, -0.5], [0.0, 1.0, 0.5]]
    torch.testing.assert_close(gradients, torch.tensor(expected), rtol=0, atol=1e-7)
    total = float(logits[2, 1]) + 1e4 + math.log(2.0)
    assert losses[0].item() == pytest.approx(total, rel=1e-6)
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 255]], dtype=torch.uint8)
    gradients, losses, is_finite = sigmoid(logits / 1e3, offsets, labels, backend)
    assert is_finite
    expected = torch.sigmoid(logits / 1e3) - torch.where(labels == 1, 1.0, 0.0)
    expected[2, 2] = 0.0
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-6)


def test_a_probe_has_the_bits_it_has_alone(isa):
    logits, offsets, targets, labels = probes(100, [17, 3, 40, 100, 17])
    many, losses, _ = softmax(logits, offsets, targets)
    many_labels, label_losses, _ = sigmoid(logits, offsets, labels)
    for k, (start, stop) in enumerate(pairwise(offsets.tolist())):
        own = torch.tensor([0, stop - start])
        alone, loss, _ = softmax(logits[start:stop], own, targets[k : k + 1])
        assert torch.equal(alone, many[start:stop])
        assert loss[0] == losses[k]
        alone, loss, _ = sigmoid(logits[start:stop], own, labels[start:stop])
        assert torch.equal(alone, many_labels[start:stop])
        assert loss[0] == label_losses[k]


def test_threads_do_not_change_a_bit(isa):
    logits, offsets, targets, labels = probes(300, [17, 3, 40])
    a, b = torch.randn(200, 900), torch.randn(900, 300)

    def everything():
        weights = stepped([torch.ones(7, 9000), *torch.zeros(3, 7, 9000)], torch.randn(7, 9000))
        return [
            *softmax(logits, offsets, targets)[:2],
            *sigmoid(logits, offsets, labels)[:2],
            multiplied(a, b),
            *weights,
        ]

    found = []
    for threads in (1, 2, 4):
        torch.manual_seed(0)
        found.append(with_threads(threads, everything))
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_told(backend, bad):
    for row in (0, 4, 20, 36, 37, 99):
        logits, offsets, targets, labels = probes(20, [37, 63])
        targets, labels = targets.clamp(min=0), labels.clamp(max=1)
        logits[row, 11] = bad
        probe = int(row >= 37)
        for op, of, at in ((softmax, targets, probe), (sigmoid, labels, row)):
            assert not op(logits, offsets, of, backend)[2]
            of = of.clone()
            of[at, 11] = -1 if op is softmax else 255
            gradients, losses, is_finite = op(logits, offsets, of, backend)
            assert is_finite
            assert gradients.isfinite().all()
            assert losses.isfinite().all()
            assert gradients[row, 11] == 0.0


def test_nothing_to_lose(backend):
    for n, sizes in ((0, [3, 2]), (4, [])):
        logits = torch.randn(sum(sizes), n)
        offsets = torch.tensor([0, *sizes]).cumsum(0)
        targets = torch.zeros(len(sizes), n, dtype=torch.int64)
        for op, of in ((softmax, targets), (sigmoid, logits.to(torch.uint8))):
            gradients, losses, is_finite = op(logits, offsets, of, backend)
            assert is_finite
            assert gradients.shape == logits.shape
            assert not losses.any()


def stepped(state, gradients, step=1, is_amsgrad=True, rates=None, backend=None, **options):
    """A parameter and its moments after a step; rows at 0.01 unless `rates` says otherwise."""
    rows = len(gradients)
    rates = torch.full((rows,), 0.01, dtype=torch.float64) if rates is None else rates
    decays = torch.full((1, rows), 0.1, dtype=torch.float64)
    weights, first, second, largest = ([x] for x in state)
    largest = largest if is_amsgrad else None
    ops.adam(
        weights,
        [gradients],
        first,
        second,
        largest,
        rates,
        decays,
        step,
        backend=backend,
        **options,
    )
    return state


@pytest.mark.parametrize("is_amsgrad", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (85, 768), (2, 40_000)], ids=str)
def test_adam_agrees_with_torch(backend, shape, is_amsgrad):
    start = torch.randn(shape)
    parameter = torch.nn.Parameter(start.double())
    options = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}
    oracle = torch.optim.AdamW([parameter], amsgrad=is_amsgrad, **options)
    state = [start.clone(), *torch.zeros(3, *shape)]
    for step in range(1, 8):
        gradients = torch.randn(shape) / step**3
        parameter.grad = gradients.double()
        oracle.step()
        stepped(
            state, gradients, step, is_amsgrad, backend=backend, betas=(0.8, 0.95), epsilon=1e-6
        )
    found = oracle.state[parameter]
    expected = [parameter.data, found["exp_avg"], found["exp_avg_sq"]]
    expected.append(found["max_exp_avg_sq"] if is_amsgrad else torch.zeros(shape).double())
    for own, other in zip(state, expected, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("backend", [None, "reference", "eager"])
def test_adam_in_float64_agrees_with_torch(backend):
    parameter = torch.nn.Parameter(torch.randn(3, 40).double())
    oracle = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.1)
    state = [parameter.detach().clone(), *torch.zeros(3, 3, 40).double()]
    for step in range(1, 8):
        parameter.grad = torch.randn(3, 40).double()
        oracle.step()
        stepped(state, parameter.grad, step, is_amsgrad=False, backend=backend)
    torch.testing.assert_close(state[0], parameter.data, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_every_row_has_its_rate(backend, dtype):
    rates = torch.tensor([0.0, 1e-3, 0.1], dtype=dtype)
    start, gradients = torch.randn(3, 20), torch.randn(3, 20)
    state = stepped(
        [start.clone(), *torch.zeros(3, 3, 20)], gradients, rates=rates, backend=backend
    )
    for row, rate in enumerate(rates):
        moments = torch.zeros(3, 1, 20)
        alone = [start[row : row + 1].clone(), *moments]
        stepped(alone, gradients[row : row + 1], rates=rate[None], backend=backend)
        assert torch.equal(alone[0][0], state[0][row])
    assert torch.equal(state[0][0], start[0])


@pytest.mark.parametrize("size", [0.0, 1e-3, 10.0])
def test_gradients_are_clipped_over_all_parameters(backend, size):
    shapes = [(4, 3, 17_000), (4, 5)]
    start = [torch.randn(shape).flatten(1) for shape in shapes]
    gradients = [torch.randn_like(p) * size for p in start]
    # A row of a size of its own.
    for g in gradients:
        g[1] *= 1e-3
    oracles = [[torch.nn.Parameter(p[row].double()) for p in start] for row in range(4)]
    for row, parameters in enumerate(oracles):
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g[row].double()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        torch.optim.Adam(parameters, lr=0.01, eps=1e-2).step()
    state = [[torch.zeros_like(p) for p in start] for _ in range(2)]
    rates, decays = torch.full((4,), 0.01), torch.zeros(2, 4)
    weights = [p.clone() for p in start]
    ops.adam(
        weights,
        gradients,
        *state,
        None,
        rates,
        decays,
        1,
        epsilon=1e-2,
        clip=5.0,
        backend=backend,
    )
    for p, found in enumerate(weights):
        expected = torch.stack([parameters[p].data for parameters in oracles])
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-6)


def test_adam_on_gradients_of_zero(backend):
    state = stepped([torch.ones(2, 3), *torch.zeros(3, 2, 3)], torch.zeros(2, 3), backend=backend)
    torch.testing.assert_close(state[0], torch.full((2, 3), 0.999), rtol=1e-7, atol=0)
    assert not any(moment.any() for moment in state[1:])


A, B, OUT = torch.randn(4, 3), torch.randn(3, 5), torch.full((4, 5), NAN)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((A.int(), B, OUT), TypeError, "a must be a floating-point"),
        ((A, B[0], OUT), TypeError, "b must be a floating-point"),
        ((A.half(), B.half(), OUT.half()), TypeError, "must be float32 or float64 alike, got"),
        ((A, B.double(), OUT), TypeError, "must be float32 or float64 alike, got"),
        ((A, B.T, OUT), ValueError, r"shapes must be .* got \(4, 3\), \(5, 3\) and \(4, 5\)"),
        ((A, B, OUT[:3]), ValueError, r"shapes must be .* and \(3, 5\)"),
        ((A, B, torch.empty(5, 4).T), ValueError, r"out must have contiguous rows .*\(1, 4\)"),
        ((A, B, torch.empty(1, 5).expand(4, 5)), ValueError, r"out must have .*\(0, 1\)"),
        ((A[None], B, OUT), ValueError, r"after as many axes, got \(1, 4, 3\), \(3, 5\) and"),
        ((A.expand(2, 4, 3), B.expand(2, 3, 5), OUT.expand(2, 4, 5)), ValueError, " 0 apart"),
        ((torch.imag(A.cfloat().conj()), B, OUT), ValueError, "view that negates them"),
        ((A, B, OUT, "triton"), ValueError, r"backend must be one of .*'eager'\), got 'triton'"),
    ],
)
def test_multiply_refuses(arguments, error, message):
    *matrices, backend = arguments if len(arguments) == 4 else (*arguments, None)
    with pytest.raises(error, match=r"\[multiply\] .*" + message):
        ops.multiply(*matrices, backend=backend)
    assert OUT.isnan().all()


def test_multiply_refuses_an_output_in_a_factor():
    square = torch.randn(4, 4)
    with pytest.raises(ValueError, match=r"\[multiply\] out must not overlap a"):
        ops.multiply(square, B[:, :4].new_zeros(4, 4), square)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": torch.zeros(5)}, "logits must be a matrix"),
        ({"logits": torch.zeros(4, 5).T}, "logits must be a contiguous torch.float32"),
        ({"logits": torch.zeros(5, 4).double()}, "logits must be a contiguous torch.float32"),
        ({"offsets": torch.tensor([0, 2, 6])}, r"offsets must rise .* 5 rows .*\[0, 2, 6\]"),
        ({"offsets": torch.tensor([0, 0, 5])}, "offsets must rise from 0"),
        ({"offsets": torch.tensor([1, 2, 5])}, "offsets must rise from 0"),
        ({"offsets": torch.tensor([], dtype=torch.int64)}, r"offsets must rise .*got \[\]"),
        ({"offsets": torch.tensor([0.0, 2.0, 5.0])}, "offsets must be a contiguous torch.int64"),
        ({"targets": torch.zeros(4, 3)}, "targets must be a contiguous"),
        ({"losses": torch.zeros(2)}, "losses must be a contiguous torch.float64"),
    ],
)
def test_gradients_refuse(changed, message):
    logits, offsets, targets, labels = probes(4, [2, 3])
    given = {"logits": logits, "offsets": offsets, "losses": torch.zeros(2).double(), **changed}
    for op, of in ((ops.softmax_gradient, targets), (ops.sigmoid_gradient, labels)):
        with pytest.raises(ValueError, match=rf"\[{op.__name__}\] .*{message}"):
            op(**{"targets": of, **given})


@pytest.mark.parametrize("bad", [-2, 3])
def test_targets_that_a_probe_does_not_have_are_refused(backend, bad):
    logits, offsets, targets, labels = probes(40, [5, 3, 4])
    before = logits.clone()
    targets[1, 33] = bad
    message = rf"targets must be -1 or below the 3 labels .* got {bad} for target 33 of probe 1; "
    losses = torch.zeros(3).double()
    with pytest.raises(ValueError, match=r"\[softmax_gradient\] " + message):
        ops.softmax_gradient(logits, offsets, targets, losses, backend=backend)
    labels[7, 33] = 2
    message = r"targets must be 0, 1 or 255 for none, got 2 for target 33 of probe 1; "
    with pytest.raises(ValueError, match=r"\[sigmoid_gradient\] " + message):
        ops.sigmoid_gradient(logits, offsets, labels, losses, backend=backend)
    assert torch.equal(logits, before)
    assert not losses.any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": 0}, "step must be at least 1, got 0"),
        ({"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
        ({"epsilon": 0.0}, "epsilon must be positive, got 0.0"),
        ({"clip": 0.0}, "clip must be positive, got 0.0"),
        ({"weights": [torch.zeros(3)]}, r"weights\[0\] must be a matrix"),
        ({"first": []}, "first must have 1 entries, got 0"),
        ({"gradients": [torch.zeros(2, 4)]}, r"gradients\[0\] must be .* shape \(2, 3\)"),
        ({"second": [torch.zeros(2, 3).double()]}, r"second\[0\] must be a contiguous"),
        ({"largest": [torch.zeros(3, 2).T]}, r"largest\[0\] must be a contiguous torch.float32"),
        ({"rates": torch.zeros(3)}, r"decays must be .* shape \(1, 3\)"),
        ({"decays": torch.zeros(1, 2).half()}, "decays must be a contiguous torch.float32"),
    ],
)
def test_adam_refuses(changed, message):
    lists = ("weights", "gradients", "first", "second", "largest")
    given = {key: [torch.zeros(2, 3)] for key in lists}
    given |= {"rates": torch.zeros(2), "decays": torch.zeros(1, 2), "step": 1}
    with pytest.raises(ValueError, match=r"\[adam\] .*" + message):
        ops.adam(**{**given, **changed})


def test_tensors_elsewhere_go_to_torch_and_nowhere_in_silence():
    a, b, out = (torch.empty(shape, device="meta") for shape in ((4, 3), (3, 5), (4, 5)))
    ops.multiply(a, b, out)
    with pytest.raises(RuntimeError, match=r"must be on the CPU .* got meta.*backend=\"eager\""):
        ops.multiply(a, b, out, backend="native")
    with pytest.raises(ValueError, match=r"must be torch.float32 .* native .*, got torch.float64"):
        stepped(list(torch.zeros(4, 2, 3).double()), torch.zeros(2, 3).double(), backend="native")
    with pytest.raises(ValueError, match="must be on one device"):
        ops.multiply(a, B, out)
    runs = torch.zeros(4, dtype=torch.int64, device="meta")
    with pytest.raises(RuntimeError, match=r"must be on the CPU .*backend=\"reference\""):
        ops.pool_rows(a, runs, runs, torch.empty(4, 3, device="meta"))
    with pytest.raises(ValueError, match=r"must be one of \('reference', 'native', 'triton'\)"):
        ops.pool_rows(a, runs, runs, torch.empty(4, 3, device="meta"), backend="eager")


KEPT = []  # views do not keep the memory of their tensors


def raw(*tensors):
    KEPT.extend(tensors)
    return [None if x is None else view(x) for x in tensors]


Z, T2, L2 = torch.zeros(5, 4), torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2).double()


V, W = torch.zeros(6, 3), torch.zeros(2, 3)


def linear_by_core(**changed):
    given = {"x": torch.zeros(4, 3), "weights": V, "biases": torch.zeros(6), "targets": T2}
    given |= {"scales": torch.zeros(2), "losses": torch.zeros(2).double()}
    given |= {"of_weights": torch.zeros(6, 3), "of_biases": torch.zeros(6), **changed}
    _native.linear_gradient(**{key: raw(x)[0] for key, x in given.items()}, threads=1)


def stepped_by_core(**changed):
    given = {key: raw(torch.zeros(2, 3)) for key in ("gradients", "first", "second")}
    given |= {"weights": raw(W), "largest": None, "step": 1, "threads": 1, "clip": None}
    given |= {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
    given |= {"rates": L2, "decays": torch.zeros(1, 2), **changed}
    given |= {key: raw(given[key])[0] for key in ("rates", "decays")}
    _native.adam(**given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _native.multiply(*raw(A, B.double(), OUT), 1), "float32 or float64 alike"),
        (lambda: _native.multiply(*raw(A, B.T, OUT), 1), "a of 4 by 3, b of 5 by 3 and out"),
        (lambda: _native.multiply(*raw(A, B, torch.empty(5, 4).T), 1), r"strides \(1, 4\)"),
        (lambda: _native.multiply(*raw(A, B, OUT), 0), "threads must be at least 1, got 0"),
        (
            lambda: _native.softmax_gradient(*raw(Z, torch.tensor([0, 3, 4]), T2, L2), 1),
            "offsets must rise from 0 to the 5 rows",
        ),
        (
            lambda: _native.softmax_gradient(*raw(Z, torch.tensor([0, 3, 5]), T2.T, L2), 1),
            r"targets must be int64 of shape \(2, 4\)",
        ),
        (
            lambda: _native.sigmoid_gradient(*raw(Z, torch.tensor([0, 3, 5]), T2, L2), 1),
            r"targets must be uint8 of shape \(5, 4\)",
        ),
        (lambda: linear_by_core(x=torch.zeros(4, 7)), "x must be float32 .* of 3 columns, got 7"),
        (lambda: linear_by_core(losses=torch.zeros(4).double()), "as many rows for each of the 4"),
        (lambda: linear_by_core(of_biases=None), "must be given both or neither, got one"),
        (lambda: linear_by_core(targets=T2 + 3), "below the 3 labels of their probe, got 3"),
        (lambda: linear_by_core(of_weights=V), "of_weights must not overlap weights"),
        (lambda: stepped_by_core(step=0), "step must be at least 1, got 0"),
        (lambda: stepped_by_core(rates=L2[:1]), r"weights must be float32 of shape \(1, 3\)"),
        (lambda: stepped_by_core(first=[]), "first must have 1 entries, got 0"),
        (lambda: stepped_by_core(gradients=raw(W)), "weights must not overlap gradients"),
        (lambda: _native.multiply(*raw(A, T2.byte(), OUT), 1), r"b must be a floating-point"),
    ],
)
def test_the_core_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
