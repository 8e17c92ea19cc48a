"""What trains many probes at once, beside what torch offers for each step.

Counted: 2 m k n flops, factors read and products written once; logits read and written once, with
targets; for Adam, weights and moments read and written and gradients read once.
"""

import pytest
import torch

from bertft import ops

# Rows, columns of a, columns of the product; which of the factors lies transposed in memory.
PRODUCTS = {
    "logits of 25 probes": (256, 768, 425, "b"),
    "their gradient": (425, 256, 768, "a"),
    "edges": (300, 384, 1536, ""),
    "their gradient ": (384, 300, 1536, "a"),
    "logits of 5 probes, all rows": (50_000, 768, 85, "b"),
    "gradient of 5 probes, all rows": (85, 50_000, 768, "a"),
    "one small probe": (32, 384, 17, "b"),
    "a single row": (1, 768, 425, "b"),
}


def products(m, k, n, turned):
    torch.manual_seed(0)
    a = torch.randn(k, m).T if "a" in turned else torch.randn(m, k)
    b = torch.randn(n, k).T if "b" in turned else torch.randn(k, n)
    own, other = torch.empty(m, n), torch.empty(m, n)
    ops.multiply(a, b, own)
    expected = a[:100].double() @ b.double()
    assert (own[:100] - expected).abs().max() <= 2e-6 * expected.abs().max()
    return {
        "bertft": lambda: ops.multiply(a, b, own),
        "torch.mm": lambda: torch.mm(a, b, out=other),
    }


@pytest.mark.parametrize("who", ["bertft", "torch.mm"])
@pytest.mark.parametrize("what", PRODUCTS)
def test_multiply(benchmark, race, what, who):
    m, k, n, turned = PRODUCTS[what]
    benchmark.group = f"{what.strip()}: ({m:,} x {k:,}) ({k:,} x {n:,})"
    traffic = 4 * (m * k + k * n + m * n)
    race(what, lambda: products(m, k, n, turned), who, flops=2 * m * k * n, traffic=traffic)


def gradients(n, probes, columns, kind):
    """Calls that leave the gradients of all probes, and what they lost."""
    torch.manual_seed(0)
    start, offsets = torch.randn(probes * columns, n), torch.arange(probes + 1) * columns
    z, losses = start.clone(), torch.zeros(probes).double()
    functional = torch.nn.functional
    if kind == "softmax":
        of = torch.randint(0, columns, (probes, n))
        # As torch has them: a row for each probe and target.
        rows = start.view(probes, columns, n).transpose(1, 2).reshape(-1, columns)
        leaf, onehot = rows.clone().requires_grad_(), of.view(-1, 1)

        def own():
            z.copy_(start)
            assert ops.softmax_gradient(z, offsets, of, losses)

        def autograd():
            leaf.grad = None
            functional.cross_entropy(leaf, onehot[:, 0], reduction="sum").backward()
            return leaf.grad

        def by_hand():
            likelihoods = rows.log_softmax(dim=1)
            lost = likelihoods.gather(1, onehot).view(probes, n).sum(dim=1)
            gradient = likelihoods.exp_()
            gradient.scatter_add_(1, onehot, torch.full_like(onehot, -1.0, dtype=gradient.dtype))
            return gradient, lost

        found = z.view(probes, columns, n).transpose(1, 2)
    else:
        of = torch.randint(0, 2, start.shape).to(torch.uint8)
        leaf, floats = start.clone().requires_grad_(), of.float()

        def own():
            z.copy_(start)
            assert ops.sigmoid_gradient(z, offsets, of, losses)

        def autograd():
            leaf.grad = None
            functional.binary_cross_entropy_with_logits(leaf, floats, reduction="sum").backward()
            return leaf.grad

        def by_hand():
            lost = functional.binary_cross_entropy_with_logits(start, floats, reduction="none")
            return start.sigmoid().sub_(floats), lost.view(probes, -1).sum(dim=1)

        found = z

    own()
    torch.testing.assert_close(found, autograd().view_as(found), rtol=0, atol=1e-6)
    torch.testing.assert_close(found, by_hand()[0].view_as(found), rtol=0, atol=1e-6)
    return {"bertft": own, "torch by hand": by_hand, "torch autograd": autograd}


@pytest.mark.parametrize("who", ["bertft", "torch by hand", "torch autograd"])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("n", "probes", "columns"), [(256, 25, 17), (4096, 25, 50)])
def test_gradients(benchmark, race, n, probes, columns, kind, who):
    benchmark.group = f"{kind} gradients: {n:,} rows, {probes} probes of {columns} columns"
    size = n * probes * columns
    # Ours works in place: a copy of the logits is part of its time, and of the bytes.
    targets = 8 * n * probes if kind == "softmax" else size
    key, traffic = (kind, n, columns), 16 * size + targets
    race(key, lambda: gradients(n, probes, columns, kind), who, traffic=traffic)


def linear_gradients(n, probes, labels, d):
    """Calls that leave the gradients of linear probes: in one, and by products and a loss."""
    torch.manual_seed(0)
    x, weights = torch.randn(n, d), torch.randn(probes * labels, d) / d**0.5
    biases, scales = torch.zeros(probes * labels), torch.ones(probes)
    of = torch.randint(0, labels, (probes, n))
    losses, offsets = torch.zeros(probes).double(), torch.arange(probes + 1) * labels
    own = torch.empty_like(weights), torch.empty_like(biases)
    parts, z = torch.empty_like(weights), torch.empty(probes * labels, n)
    leaf, onehot = weights.clone().requires_grad_(), of.T.reshape(-1)

    def fused():
        assert ops.linear_gradient(x, weights, biases, of, scales, losses, *own)

    def by_parts():
        ops.multiply(weights, x.T, z)
        z.add_(biases[:, None])
        assert ops.softmax_gradient(z, offsets, of, losses)
        ops.multiply(z, x, parts)
        return z.sum(dim=1)

    def autograd():
        leaf.grad = None
        logits = torch.nn.functional.linear(x, leaf, biases).view(n * probes, labels)
        torch.nn.functional.cross_entropy(logits, onehot, reduction="sum").backward()

    for call in (fused, by_parts, autograd):
        call()
    largest = float(parts.abs().max())
    torch.testing.assert_close(own[0], parts, rtol=0, atol=4e-6 * largest)
    torch.testing.assert_close(leaf.grad, parts, rtol=0, atol=4e-6 * largest)
    return {"bertft": fused, "bertft by parts": by_parts, "torch autograd": autograd}


@pytest.mark.parametrize("who", ["bertft", "bertft by parts", "torch autograd"])
@pytest.mark.parametrize(("n", "probes", "labels"), [(256, 25, 2), (256, 25, 17), (4096, 5, 17)])
def test_linear_gradients(benchmark, race, n, probes, labels, who):
    benchmark.group = f"linear gradients: {n:,} rows of 768, {probes} probes of {labels} labels"
    flops = 4.0 * n * 768 * probes * (labels - 1)
    key = ("linear", n, labels)
    race(key, lambda: linear_gradients(n, probes, labels, 768), who, flops=flops)


def optimizers(rows, columns, is_amsgrad):
    torch.manual_seed(0)
    start, gradient = torch.randn(rows, columns), torch.randn(rows, columns)
    weights, moments = start.clone(), torch.zeros(3, rows, columns)
    rates, decays = torch.full((rows,), 1e-3), torch.full((1, rows), 1e-2)
    count = 0

    def own():
        nonlocal count
        count += 1
        first, second, largest = ([x] for x in moments)
        largest = largest if is_amsgrad else None
        ops.adam([weights], [gradient], first, second, largest, rates, decays, count)

    def theirs(**options):
        parameter = torch.nn.Parameter(start.clone())
        parameter.grad = gradient.clone()
        options |= {"lr": 1e-3, "weight_decay": 1e-2, "amsgrad": is_amsgrad}
        return torch.optim.AdamW([parameter], **options), parameter

    fused, one = theirs(fused=True)
    foreach, other = theirs(foreach=True)
    calls = {"bertft": own, "torch fused": fused.step, "torch foreach": foreach.step}
    for call in (*calls.values(), *calls.values()):
        call()
    for parameter in (one, other):
        torch.testing.assert_close(weights, parameter.data, rtol=2e-6, atol=1e-6)
    return calls


@pytest.mark.parametrize("who", ["bertft", "torch fused", "torch foreach"])
@pytest.mark.parametrize("is_amsgrad", [False, True], ids=["Adam", "AMSGrad"])
@pytest.mark.parametrize(("rows", "columns"), [(425, 768), (4250, 768)])
def test_adam(benchmark, race, rows, columns, is_amsgrad, who):
    benchmark.group = f"{'AMSGrad' if is_amsgrad else 'Adam'}: weights {rows:,} x {columns}"
    traffic = (36 if is_amsgrad else 28) * rows * columns
    key = (rows, is_amsgrad)
    race(key, lambda: optimizers(rows, columns, is_amsgrad), who, traffic=traffic)


def attended(spans, probes, width):
    """Calls that leave the means of spans and their gradients."""
    torch.manual_seed(0)
    lengths = torch.randint(1, 4, (spans,))
    starts = torch.randint(0, 2 * spans, (spans,))
    stops, rows = starts + lengths, 2 * spans + 4
    x, weight = torch.randn(rows, probes, width), torch.randn(probes, width)
    out, logsums = torch.empty(spans, probes, width), torch.empty(spans, probes)
    of_x, of_weight, of_out = torch.empty_like(x), torch.empty_like(weight), torch.randn_like(out)
    places = (starts[:, None] + torch.arange(3)).clamp(max=rows - 1)
    mask = torch.arange(3) < lengths[:, None]
    leaves = [t.clone().requires_grad_() for t in (x, weight)]

    def own():
        inputs = (x, weight, starts, stops)
        ops.attend_spans(*inputs, out, logsums)
        ops.attend_spans_gradient(*inputs, out, logsums, of_out, of_x, of_weight)

    def padded():
        own_rows = leaves[0][places]
        logits = (own_rows * leaves[1]).sum(3).masked_fill(~mask[:, :, None], -torch.inf)
        means = (logits.softmax(1)[..., None] * own_rows).sum(1)
        return torch.autograd.grad(means, leaves, of_out)

    own()
    for found, expected in zip((of_x, of_weight), padded(), strict=True):
        size = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * size)
    return {"bertft": own, "torch padded": padded}


@pytest.mark.parametrize("who", ["bertft", "torch padded"])
@pytest.mark.parametrize("spans", [50, 400])
def test_attended_spans(benchmark, race, spans, who):
    benchmark.group = f"attention over {spans} spans of 1 to 3 rows of 256, 3 probes"
    race(("spans", spans), lambda: attended(spans, 3, 256), who)


def hidden_units(rows, probes, width):
    """Calls that leave normalized units with dropout and their gradients."""
    torch.manual_seed(0)
    x, of_out = torch.randn(2, rows, probes, width)
    bias, gain, shift = torch.randn(3, probes, width)
    kept, scale = torch.randint(2, x.shape, dtype=torch.uint8), 2.0
    hidden, out, of_x = torch.empty(3, rows, probes, width)
    sums = list(torch.empty(3, probes, width))
    leaves = [t.clone().requires_grad_() for t in (x, bias, gain, shift)]

    def own():
        hidden.copy_(x)
        of_x.copy_(of_out)
        ops.tanh_norm(hidden, bias, gain, shift, kept, out, scale=scale)
        ops.tanh_norm_gradient(hidden, bias, gain, shift, kept, of_x, *sums, scale=scale)

    def autograd():
        units = torch.tanh(leaves[0] + leaves[1])
        units = torch.nn.functional.layer_norm(units, (width,)) * leaves[2] + leaves[3]
        return torch.autograd.grad(units * kept * scale, leaves, of_out)

    own()
    for found, expected in zip((of_x, *sums), autograd(), strict=True):
        size = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * size)
    return {"bertft": own, "torch autograd": autograd}


@pytest.mark.parametrize("who", ["bertft", "torch autograd"])
@pytest.mark.parametrize("rows", [50, 400])
def test_hidden_units(benchmark, race, rows, who):
    benchmark.group = f"hidden units: {rows} rows of 256, 3 probes, with dropout"
    race(("hidden", rows), lambda: hidden_units(rows, 3, 256), who)


def edge_probes(targets, probes, spans, labels):
    """Calls that leave the gradients of edge probes of 256 units on rows of 384."""
    torch.manual_seed(0)
    n, d, h = 2 * targets, 384, 256
    shapes = [(probes, d, h), (probes, h), (probes, h)] * spans
    shapes += [(probes, spans * h, h), *[(probes, h)] * 3, (probes, h, labels), (probes, labels)]
    own = ops.EdgeProbes.of([torch.randn(shape) * 0.05 for shape in shapes])
    found, composed = (ops.EdgeProbes.of([torch.empty_like(t) for t in own.tensors]) for _ in "12")
    x = torch.randn(n, d)
    rows = []
    for _ in range(spans):
        starts = torch.randint(n - 3, (targets,))
        rows.append(ops.SpanRows(x, starts, starts + torch.randint(1, 4, (targets,))))
    wanted = torch.randint(2, (probes * labels, targets), dtype=torch.uint8)
    kept = torch.randint(2, (probes, targets, h), dtype=torch.uint8)
    scales, losses = torch.full((probes,), 1 / (targets * labels)), torch.zeros(probes).double()

    def call(gradients, backend):
        given = (own, rows, wanted, scales, losses, gradients)
        ops.edge_gradient(*given, kept=kept, scale=2.0, backend=backend)

    call(found, "native")
    call(composed, "composed")
    for first, second in zip(found.tensors, composed.tensors, strict=True):
        size = float(second.abs().max())
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5 * size)
    return {
        "bertft": lambda: call(found, "native"),
        "composed of operations": lambda: call(composed, "composed"),
    }


@pytest.mark.parametrize("who", ["bertft", "composed of operations"])
@pytest.mark.parametrize("targets", [32, 200])
def test_edge_gradient(benchmark, race, targets, who):
    benchmark.group = f"gradients of 3 edge probes, {targets} targets of two spans, 20 labels"
    # Projected, its gradient; the hidden layer and two gradients.
    flops = 2.0 * 3 * 2 * (2 * 2 * targets * 384 * 256 + 3 * targets * 256 * 256)
    race(("edges", targets), lambda: edge_probes(targets, 3, 2, 20), who, flops=flops)
