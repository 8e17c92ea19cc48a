"""Losses of structural probes, every backend and instruction set, against autograd in float64."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import _native, ops
from bertft.ops import native

RUNS = [("reference", None), ("eager", None), *(("native", isa) for isa in native.available_isas())]
OPS = {"distance": ops.distance_gradient, "depth": ops.depth_gradient}
LENGTHS = [[1], [2], [1, 1, 3], [17, 5, 49, 1, 33], [100, 2]]
NAN = float("nan")


def on(isa):
    return native.using_isa(isa) if isa else nullcontext()


@pytest.fixture(params=RUNS, ids=lambda run: run[1] or run[0])
def backend(request):
    """The name of every backend in turn, the native one on every instruction set."""
    with on(request.param[1]):
        yield request.param[0]


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def gold_of(kind, lengths, seed=0):
    """Depths of the words of random trees, or the distances between them."""
    random = np.random.default_rng(seed)
    found = []
    for n in lengths:
        points = random.integers(0, 9, n)
        found.append(points if kind == "depth" else abs(points[:, None] - points).ravel())
    return torch.tensor(np.concatenate(found)).float()


def expected(kind, projected, lengths, gold, probes):
    """Loss of each probe and the gradient of their sum, by the definition and torch's autograd."""
    leaf = projected.double().requires_grad_()
    losses = [leaf.new_zeros(()) for _ in range(probes)]
    golds = gold.double().split([n * n if kind == "distance" else n for n in lengths])
    for rows, own in zip(leaf.split(lengths), golds, strict=True):
        n = len(rows)
        for k, p in enumerate(rows.chunk(probes, dim=1)):
            if kind == "distance":
                found = (p[:, None] - p[None]).square().sum(2)
                losses[k] = losses[k] + (found - own.view(n, n)).abs().sum() / n**2
            else:
                losses[k] = losses[k] + (p.square().sum(1) - own).abs().sum() / n
    torch.stack(losses).sum().backward()
    return torch.stack(losses).detach(), leaf.grad


def differentiated(kind, projected, lengths, gold, probes, backend=None, start=0.0):
    """What becomes of projected rows between columns that must stay as they are."""
    n, columns = projected.shape
    whole = torch.full((n, columns + 6), NAN, dtype=projected.dtype)
    own = whole[:, 3:-3]
    own.copy_(projected)
    losses = torch.full((probes,), start).double()
    is_finite = OPS[kind](own, offsets_of(lengths), gold, losses, backend=backend)
    assert whole[:, :3].isnan().all()
    assert whole[:, -3:].isnan().all()
    return own.clone(), losses, is_finite


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("probes", "rank"), [(1, 1), (3, 7), (2, 64), (1, 130)])
def test_gradients_are_those_of_autograd(backend, kind, lengths, probes, rank):
    projected = torch.randn(sum(lengths), probes * rank) * 2 / rank**0.5
    gold = gold_of(kind, lengths)
    found, losses, is_finite = differentiated(
        kind, projected, lengths, gold, probes, backend, start=1.0
    )
    lost, gradient = expected(kind, projected, lengths, gold, probes)
    assert is_finite
    torch.testing.assert_close(losses - 1.0, lost, rtol=2e-6, atol=1e-6)
    largest = float(gradient.abs().max())
    torch.testing.assert_close(found.double(), gradient, rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("backend", [None, "reference", "eager"])
def test_gradients_in_float64_are_those_of_autograd(backend, kind):
    lengths = [17, 5, 1, 33]
    projected, gold = torch.randn(56, 14).double(), gold_of(kind, lengths)
    found, losses, is_finite = differentiated(kind, projected, lengths, gold, 2, backend)
    lost, gradient = expected(kind, projected, lengths, gold, 2)
    assert is_finite
    torch.testing.assert_close(losses, lost, rtol=1e-14, atol=0)
    torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", OPS)
def test_errors_of_zero_have_no_gradient(backend, kind):
    """Points on a line whose distances and depths are whole numbers."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    squares = (points[:, None] - points).square().sum(2)
    gold = squares.flatten() if kind == "distance" else points.square().sum(1)
    found, losses, _ = differentiated(kind, points, [4], gold, 1, backend)
    assert losses.item() == 0.0
    assert not found.any()


def test_distances_keep_their_digits_where_rows_are_far_from_zero(backend):
    lengths, gold = [40, 20], gold_of("distance", [40, 20])
    projected = torch.randn(60, 32) + 1000.0
    found, losses, _ = differentiated("distance", projected, lengths, gold, 1, backend)
    lost, gradient = expected("distance", projected, lengths, gold, 1)
    torch.testing.assert_close(losses, lost, rtol=1e-4, atol=0)
    assert (found.double() - gradient).abs().max() < 1e-3 * gradient.abs().max()


@pytest.mark.parametrize("kind", OPS)
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=9),
    probes=st.integers(1, 5),
    rank=st.integers(1, 70),
    isa=st.sampled_from(native.available_isas()),
)
def test_threads_and_neighbors_do_not_change_a_bit(kind, lengths, probes, rank, isa):
    projected, gold = torch.randn(sum(lengths), probes * rank), gold_of(kind, lengths)
    arguments = (kind, projected, lengths, gold, probes)
    before = torch.get_num_threads()
    with native.using_isa(isa):
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(differentiated(*arguments)[:2])
        torch.set_num_threads(before)
        alone = [
            differentiated(kind, own.contiguous(), lengths, gold, 1)[:2]
            for own in projected.chunk(probes, dim=1)
        ]
    for found, losses in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(losses, results[0][1])
    assert torch.equal(torch.cat([found for found, _ in alone], dim=1), results[0][0])
    assert torch.equal(torch.cat([losses for _, losses in alone]), results[0][1])


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_losses_that_are_not_finite_are_told(backend, kind, bad):
    projected = torch.randn(9, 8)
    projected[4, 5] = bad
    gold = gold_of(kind, [3, 6])
    _, losses, is_finite = differentiated(kind, projected, [3, 6], gold, 2, backend)
    assert not is_finite
    assert losses[0].isfinite()


@pytest.mark.parametrize("kind", OPS)
def test_nothing_to_do(backend, kind):
    losses = torch.ones(2).double()
    assert OPS[kind](
        torch.empty(0, 4), torch.zeros(1).long(), torch.empty(0), losses, backend=backend
    )
    assert losses.tolist() == [1.0, 1.0]


def rows(n, columns):
    return torch.zeros(n, columns)


BAD = [
    ({"projected": torch.zeros(6)}, r"projected must be a matrix, got .*\(6,\); reshape"),
    ({"projected": rows(6, 4).half()}, "projected must be float32 or .* got torch.float16"),
    (
        {"projected": rows(6, 4).double(), "backend": "native"},
        "tensors must be torch.float32 for the native backend, got torch.float64; convert",
    ),
    ({"projected": rows(4, 6).T}, r"projected must be float32 .* strides \(1, 6\); allocate"),
    ({"projected": torch.zeros(1, 4).expand(6, 4)}, r"do not overlap, got .* strides \(0, 1\)"),
    ({"projected": rows(6, 5)}, "as many columns for each of the 2 probes, got 5; give"),
    ({"projected": rows(6, 0)}, "as many columns for each of the 2 probes, got 0; give"),
    ({"losses": torch.zeros(0).double()}, "as many columns for each of the 0 probes, got 4"),
    ({"losses": torch.zeros(2)}, "losses must be a contiguous torch.float64 .* allocate"),
    ({"offsets": torch.tensor([0, 2, 5])}, r"from 0 to the 6 rows .* got \[0, 2, 5\]; give"),
    ({"offsets": torch.tensor([0, 2, 2, 6])}, r"rise from 0 .* got \[0, 2, 2, 6\]"),
    ({"offsets": torch.tensor([1, 2, 6])}, r"rise from 0 .* got \[1, 2, 6\]"),
    ({"offsets": torch.zeros(0).long()}, r"rise from 0 .* got \[\]"),
    ({"offsets": torch.tensor([0.0, 6.0])}, "offsets must be a contiguous torch.int64"),
    ({"gold": torch.zeros(7)}, r"gold must be a contiguous torch.float32 .* got .*\(7,\)"),
    ({"gold": torch.zeros(20).double()}, "gold must be a contiguous torch.float32"),
    ({"backend": "cublas"}, "backend must be one of .* got 'cublas'; pass one"),
]


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_refused(kind, change, message):
    gold = torch.zeros(20 if kind == "distance" else 6)
    given = {"projected": rows(6, 4), "offsets": torch.tensor([0, 2, 6]), "gold": gold}
    given |= {"losses": torch.zeros(2).double(), **change}
    with pytest.raises(ValueError, match=rf"^\[{kind}_gradient\] .*{message}"):
        OPS[kind](**given)


def view(array):
    strides = [stride // array.itemsize for stride in array.strides]
    return _native.View(array.ctypes.data, str(array.dtype), array.shape, strides)


BAD_VIEWS = [
    ({"projected": np.zeros((6, 5), np.float32)}, "for each of 2 probes, .* got 5 columns"),
    ({"projected": np.zeros((6, 4))}, "projected must be float32 rows"),
    ({"projected": np.zeros((4, 6), np.float32).T}, r"contiguous and apart, got .*\(1, 6\)"),
    ({"losses": np.zeros(2, np.float32)}, "losses must be float64 of shape"),
    ({"losses": np.zeros(0)}, "for each of 0 probes"),
    ({"offsets": np.array([0, 2, 7])}, "offsets must rise from 0 to the 6 rows"),
    ({"offsets": np.array([0, 4, 2, 6])}, "offsets must rise from 0 to the 6 rows"),
    ({"gold": np.zeros(5, np.float32)}, "gold must be float32 of shape"),
    ({"threads": 0}, "threads must be at least 1, got 0"),
]


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize(("change", "message"), BAD_VIEWS)
def test_the_core_checks_again(kind, change, message):
    arrays = {
        "projected": np.zeros((6, 4), np.float32),
        "offsets": np.array([0, 2, 6]),
        "gold": np.zeros(20 if kind == "distance" else 6, np.float32),
        "losses": np.zeros(2),
        "threads": 1,
    } | change
    views = {name: view(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}
    with pytest.raises(ValueError, match=rf"^\[{kind}_gradient\] .*{message}"):
        getattr(_native, f"{kind}_gradient")(**views)


@pytest.mark.parametrize("kind", OPS)
def test_outputs_must_not_overlap_inputs(kind):
    memory = np.zeros(60, np.float32)
    gold = memory[: 20 if kind == "distance" else 6]
    arrays = (memory[:24].reshape(6, 4), np.array([0, 2, 6]), gold, np.zeros(2))
    with pytest.raises(ValueError, match="projected must not overlap gold"):
        getattr(_native, f"{kind}_gradient")(*map(view, arrays), 1)


def test_calls_from_several_threads_do_not_meet():
    lengths, gold = [30, 40, 7], gold_of("distance", [30, 40, 7])
    projected = torch.randn(77, 128)
    alone = differentiated("distance", projected, lengths, gold, 2)[0]
    found = [None] * 4

    def work(i):
        for _ in range(20):
            found[i] = differentiated("distance", projected, lengths, gold, 2)[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(own, alone) for own in found)
