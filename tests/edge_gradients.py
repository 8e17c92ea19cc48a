"""Gradients of edge probes, for tests of every backend: what is asked, and whether it is right."""

import torch

from bertft import ops

NAN = float("nan")


def parameters(k, d, p, h, c, spans, projections):
    shapes = [(k, d, p), (k, p), (k, p)] * projections
    shapes += [(k, spans * p, h), (k, h), (k, h), (k, h), (k, h, c), (k, c)]
    return ops.EdgeProbes.of([torch.randn(shape) * 0.3 for shape in shapes])


def asked(
    *, k=2, d=12, p=8, h=10, c=3, b=9, n=20, spans=2, symmetric=False, own=False, softmax=False
):
    """The arguments of a gradient, outputs poisoned; `own` rows for each probe, as of mixtures."""
    probes = parameters(k, d, p, h, c, spans, 1 if symmetric else spans)
    rows = []
    for _ in range(spans):
        starts = torch.randint(n - 4, (b,))
        x = torch.randn(k, n, d) if own else torch.randn(n, d)
        rows.append(ops.SpanRows(x, starts, starts + torch.randint(1, 5, (b,))))
    if softmax:
        targets = torch.randint(-1, c, (k, b))
    else:
        targets = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(3, (k * c, b))]
    return {
        "probes": probes,
        "spans": rows,
        "targets": targets,
        "scales": torch.rand(k),
        "losses": torch.ones(k).double(),
        "gradients": ops.EdgeProbes.of([torch.full_like(t, NAN) for t in probes.tensors]),
        "kept": torch.randint(2, (k, b, h), dtype=torch.uint8),
        "scale": 1.25,
        "of_x": [torch.full((k, n, d), NAN) for _ in rows] if own else None,
    }


def answered(arguments, backend):
    given = dict(arguments)
    given["losses"] = given["losses"].clone()
    given["gradients"] = ops.EdgeProbes.of([t.clone() for t in given["gradients"].tensors])
    given["of_x"] = given["of_x"] and [t.clone() for t in given["of_x"]]
    finite = ops.edge_gradient(**given, backend=backend)
    return finite, [given["losses"], *given["gradients"].tensors, *(given["of_x"] or [])]


def check(arguments, backend):
    finite, found = answered(arguments, backend)
    assert finite
    [_, *expected] = references = answered(arguments, "reference")[1]
    # What is left of a sum that cancels has the error of its terms, which other gradients show.
    least = 0.05 * max(float(other.abs().max()) for other in expected)
    for own, other in zip(found, references, strict=True):
        size = max(least, float(other.abs().max()))
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * size)
