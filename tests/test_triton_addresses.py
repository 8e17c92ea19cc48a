"""Every Triton kernel reads and writes past element 2^31, with strides and programs far from 0.

In the interpreter on the CPU, where pages that nothing touches do not exist; `test_triton_gpu` has
such sizes for real.
"""

from operator import add

import pytest
import torch

from bertft import ops
from tests.test_triton import MAPS, SMALL, Sums, assert_alike, halfway

pytest.importorskip("triton")
import triton.language as tl
from triton.runtime.interpreter import interpreter_builder

from bertft.ops.triton import (
    attention,
    jacobi,
    losses,
    optimizing,
    pairs,
    pooling,
    products,
    structure,
    tilings,
    weighing,
)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="pages that nothing touches exist on a GPU"
)
FAR = 2**31
IN_ORDER = torch.arange(6.0).view(2, 3)


@pytest.fixture
def vast(tmp_path):
    """Makes tensors with memory before them, where an address that wraps around would lead."""

    def make(*shape, dtype=torch.float32):
        path, count = tmp_path / str(len(list(tmp_path.iterdir()))), torch.Size(shape).numel()
        whole = torch.from_file(str(path), shared=True, size=FAR + count, dtype=dtype)
        return whole[FAR:].view(shape)

    return make


@pytest.fixture
def begin(monkeypatch):
    """Lets grids begin at another program than 0."""

    def make(*first):
        monkeypatch.setattr(
            interpreter_builder,
            "set_grid_idx",
            lambda *at: setattr(interpreter_builder, "grid_idx", tuple(map(add, at, first))),
        )

    return make


def apart(vast, n, d, dtype, is_wide=False):
    """Rows of which the last, or with `is_wide` the last columns, are past element 2^31."""
    step = -(-FAR // ((d if is_wide else n) - 1))
    strides = (2, step) if is_wide else (step, 2)
    x = vast(FAR + 2 * (n + d), dtype=dtype).as_strided((n, d), strides)
    return x.copy_(torch.randn(n, d))


@pytest.mark.parametrize("is_wide", [False, True], ids=["rows", "columns"])
def test_pool_rows(vast, is_wide):
    x = apart(vast, 3, 3, torch.bfloat16, is_wide)
    out = torch.full((2, 3), float("nan"))
    starts, stops = torch.tensor([2, 0]), torch.tensor([3, 3])
    assert ops.pool_rows(x, starts, stops, out, backend="triton")
    expected = torch.stack([x[2].float(), x.float().mean(dim=0)])
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_many_pooled_rows(vast, begin):
    run = FAR // 1024
    x, out = torch.randn(3, 1024), vast(run + 1, 1024)
    starts, stops = vast(run + 1, dtype=torch.int64), vast(run + 1, dtype=torch.int64)
    starts[run], stops[run] = 2, 3
    begin(run, 0, 0)
    finite = vast(run + 1, dtype=torch.int32)
    pooling._pool_rows[(1, 1)](
        x, starts, stops, out, finite, 3, 1024, *x.stride(), BLOCK_D=1024, TYPE=tl.float32
    )
    assert torch.equal(out[run], x[2])
    assert finite[run] == 1


@pytest.mark.parametrize("is_wide", [False, True], ids=["rows", "columns"])
def test_accumulate(vast, is_wide, monkeypatch):
    # Of 17 rows the last is the second step of the only part.
    monkeypatch.setattr(tilings, "MOST_PARTS", 1)
    rows = [apart(vast, 17, 3, torch.float32, is_wide) for _ in range(2)]
    near = [x.clone() for x in rows]
    origins, pairs_ = halfway(near, MAPS), [(0, 0), (0, 1)]
    with tilings.using(tiling=SMALL):
        found = Sums(rows, pairs_, MAPS, origins).add("triton")
    assert_alike(found, Sums(near, pairs_, MAPS, origins).add("reference"), torch.float32)


def test_products_of_many_columns(vast):
    """The tile at the beginning of the second of two parts."""
    x, y = torch.randn(2, 2**16), torch.randn(2, 2**15)
    steps = torch.tensor([[[1.0, 0.0, 1.0]]]).repeat(2, 1, 1)
    origins = [torch.zeros(1, z.shape[1]) for z in (x, y)]
    out = vast(2, 2**16, 2**15)
    products._multiply[(1, 2, 1)](
        x, y, steps, steps, *origins, torch.tensor(-1), out, 2, 2**16, 2**15, 1,
        *x.stride(), *y.stride(), 2**16, 2**15, MAPS=1, IS_OWN=False, IS_SPLIT=False,
        PRECISION="ieee", TYPE=tl.float32, BLOCK_N=16, BLOCK_X=16, BLOCK_Y=16,
    )  # fmt: skip
    for part in range(2):
        expected = torch.outer(x[part, :16], y[part, :16])
        torch.testing.assert_close(out[part, :16, :16], expected)


def test_parts_of_many_columns(vast):
    parts, product = vast(2, 3, 2**30), vast(3, 2**30, dtype=torch.float64)
    parts[:, 2, :6], product[2, :6] = IN_ORDER.repeat(1, 2), 1.0
    products._add_parts[(3, 1)](
        parts, product, parts, parts, torch.tensor(-1), 3, 2**30, 2,
        IS_OWN=False, IS_SPLIT=False, BLOCK=8,
    )  # fmt: skip
    assert torch.equal(product[2, :6], 1.0 + IN_ORDER.sum(dim=0).repeat(2).double())


def test_weights_of_many_rows(vast):
    weights, out = vast(3, 2**30, 1), vast(1, 1, 3, 2**30)
    x, weights[2, :2, 0] = torch.randn(2, 64), torch.tensor([2.0, 3.0])
    steps, origins = torch.tensor([[[1.0, 0.0, 1.0]]]).repeat(2, 1, 1), torch.zeros(1, 64)
    weighing._weigh[(1, 1, 1)](
        x, steps, origins, weights, torch.tensor(-1), out, 2**30, 2**30, 3, 2, 64, 1, 64,
        MAPS=1, TYPE=tl.float32, BLOCK_N=16, BLOCK_W=4, BLOCK_D=64,
    )  # fmt: skip
    torch.testing.assert_close(out[0, 0, 2, :64], 2.0 * x[0] + 3.0 * x[1])


TILES = {"PRECISION": "ieee", "TYPE": tl.float32, "BLOCK": 64, "BLOCK_D": 16}


def test_pairs_of_many_rows(vast, begin):
    """The last pair of 2^20 and two rows."""
    n, d = 2**20 + 2, 2**11
    x, offsets, sums = vast(n, d), vast(n, dtype=torch.float64), vast(2**20, 5, dtype=torch.float64)
    x[-2:], offsets[-1] = torch.randn(2, d), 7.0
    begin(2**14, 2**14, 0)
    pairs._sum_pairs[(1, 1)](x, offsets, x, offsets, 1.0, 2.0, sums, n, d, d, **TILES)
    product = float(x[-1].double() @ x[-2].double())
    s, t = product + 7.0, 2.0 * product + 7.0
    expected = torch.tensor([s, t, s * s, t * t, s * t], dtype=torch.float64)
    torch.testing.assert_close(sums[2**15], expected, rtol=1e-5, atol=1e-4)


def test_similarities_of_many_pairs(vast, begin):
    n = 2**16 + 2
    x, offsets, out = torch.randn(n, 3), torch.zeros(n).double(), vast(n * (n - 1) // 2)
    begin(2**10, 2**10, 0)
    pairs._condense[(1, 1)](x, offsets, 1.0, out, n, 3, **TILES)
    torch.testing.assert_close(out[-1], x[-1] @ x[-2])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_losses_of_many_targets(vast, begin, kind):
    """The first targets of the last of three probes, which has the last two rows of logits."""
    n, offsets = 2**30, torch.tensor([0, 1, 2, 4])
    logits, own = vast(4, n), torch.randn(2, 256)
    logits[2:, :256] = own
    if kind == "softmax":
        targets, labels = vast(3, n, dtype=torch.int64), torch.randint(2, (256,))
        targets[2, :256] = labels
    else:
        targets, labels = vast(4, n, dtype=torch.uint8), torch.randint(2, (2, 256))
        targets[2:, :256] = labels
    lost = vast(3 * n // 256, dtype=torch.float64)
    begin(2 * n // 256, 0, 0)
    kernel = getattr(losses, f"_{kind}_gradient")
    kernel[(1,)](logits, offsets, targets, lost, n, BLOCK_C=2, BLOCK_N=256)
    if kind == "softmax":
        expected = torch.nn.functional.cross_entropy(own.T, labels, reduction="sum")
        gradient = own.softmax(dim=0) - torch.nn.functional.one_hot(labels, 2).T
    else:
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            own, labels.float(), reduction="sum"
        )
        gradient = own.sigmoid() - labels
    torch.testing.assert_close(lost[2 * n // 256].float(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(logits[2:, :256], gradient, rtol=0, atol=1e-6)


def test_adam_of_many_probes(vast, begin):
    """The first columns of row 2^11 of 2^20 columns."""
    row, columns = 2**11, 2**20
    weights, gradients, first, second, largest = (vast(row + 1, columns) for _ in range(5))
    gradients[row, :8], weights[row, :8] = 1.0 + torch.rand(8), 1.0
    rates, decays, scales = (torch.full((row + 1,), value) for value in (0.1, 0.5, 1.0))
    begin(row * columns // 1024, 0, 0)
    optimizing._adam[(1,)](
        weights, gradients, first, second, largest, rates, decays, scales, columns,
        0.5, 0.5, 0.5, 0.5, 2.0, 2.0, 1e-8, AMSGRAD=True, CLIPPED=True, BLOCK_C=1024,
    )  # fmt: skip
    # The first step is as long as the rate, whatever the gradient.
    torch.testing.assert_close(weights[row, :8], torch.full((8,), 0.95 - 0.1))
    torch.testing.assert_close(first[row, :8], 0.5 * gradients[row, :8])
    for squares in (second, largest):
        torch.testing.assert_close(squares[row, :8], 0.5 * gradients[row, :8].square())


@pytest.mark.parametrize("kind", ["distance", "depth"])
def test_structural_losses_of_many_words(vast, begin, kind):
    """A sentence of three words after 2^30 others, under the second of two probes."""
    start, own = FAR // 2, torch.randn(3, 3)
    words, gold = vast(start + 3, 6), vast(FAR + 9)
    words[start:, 3:] = own
    offsets, lost = torch.tensor([0, start, start + 3]), torch.zeros(4).double()
    begin(3, 0, 0)
    if kind == "distance":
        out = vast(start + 3, 6)
        structure._distance_gradient[(1, 1, 1)](
            words, offsets, torch.tensor([0, FAR]), gold, out, lost, 2, 3,
            words.stride(0), out.stride(0), BLOCK_N=16, BLOCK_R=16,
        )  # fmt: skip
        differences = own[:, None] - own
        expected = differences.square().sum() / 9
        gradient = 4.0 / 9 * differences.sum(dim=1)
    else:
        out = words
        structure._depth_gradient[(1,)](
            words, offsets, gold, lost, 2, 3, words.stride(0), BLOCK_N=16, BLOCK_R=16
        )
        expected, gradient = own.square().sum() / 3, 2.0 / 3 * own
    torch.testing.assert_close(lost[-1], expected.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(out[start:, 3:], gradient, rtol=0, atol=1e-5)


def test_spans_of_many_rows(vast, begin):
    """The last three rows as span 2^20 of as many, under the last of two probes."""
    n, probes, width, span = 2**20 + 3, 2, 2**10, 2**20
    x, out, gradient, of_x = (vast(n, probes, width) for _ in range(4))
    logsums, of_logits, weight = vast(n, probes), vast(n, probes), torch.randn(probes, width)
    x[-3:], gradient[span] = torch.randn(3, probes, width) / 32, torch.randn(probes, width)
    starts, stops, bounds = (vast(n + 1, dtype=torch.int64) for _ in range(3))
    starts[span], stops[span], bounds[-1] = n - 3, n, 1
    sizes = {"K": probes, "H": width, "BLOCK_N": 2, "BLOCK_H": width}

    begin(span * probes + 1, 0, 0)
    attention._attend_spans[(1,)](x, weight, starts, stops, out, logsums, **sizes)
    rows, own = x[-3:, 1], gradient[span, 1]
    logits = rows @ weight[1]
    mean = logits.softmax(dim=0) @ rows
    torch.testing.assert_close(out[span, 1], mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(logsums[span, 1], logits.logsumexp(dim=0))

    begin(n * probes - 1, 0, 0)
    attention._attend_spans_gradient[(1,)](
        x, weight, bounds, torch.tensor([span]), out, logsums, gradient, of_x, of_logits, **sizes
    )
    share = logits.softmax(dim=0)[-1]
    of_logit = share * (own @ (rows[-1] - mean))
    torch.testing.assert_close(of_logits[-1, 1], of_logit, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of_x[-1, 1], share * own + of_logit * weight[1], rtol=0, atol=1e-5)


def test_many_matrices(vast, begin):
    number = FAR // 16**2
    rows, angles = (vast(number + 1, *x, dtype=torch.float64) for x in ((16, 16), ()))
    draw = torch.randn(16, 16, dtype=torch.float64)
    rows[number] = 2.0 * torch.eye(16) + (draw + draw.T) / 64
    begin(number, 0, 0)
    matrix = rows[number].clone()
    jacobi._jacobi[(1,)](rows, angles, 1e-14, 40, D=16, BLOCK=8)
    assert angles[number] <= 1e-14
    norms = rows[number].norm(dim=1).sort().values
    torch.testing.assert_close(norms, torch.linalg.eigvalsh(matrix), rtol=1e-12, atol=0)
