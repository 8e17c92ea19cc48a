"""Spans under attention, for tests of every backend: what they are and what comes of them."""

import torch

from bertft import ops

NAN = float("nan")
SPANS = [[(4, 5)], [(0, 3), (2, 9), (3, 4), (3, 4), (0, 9)], [(0, 70), (1, 18)]]


def attended(x, weight, starts, stops, gradient, backend=None):
    """Means of spans, and the gradients of rows and weights, in poisoned tensors."""
    out, logsums = torch.full_like(gradient, NAN), torch.full_like(gradient[:, :, 0], NAN)
    of_x, of_weight = torch.full_like(x, NAN), torch.full_like(weight, NAN)
    inputs = (x, weight, starts, stops)
    ops.attend_spans(*inputs, out, logsums, backend=backend)
    ops.attend_spans_gradient(*inputs, out, logsums, gradient, of_x, of_weight, backend=backend)
    return out, of_x, of_weight


def check_attended(backend, spans, probes, width, dtype, device="cpu", scale=1.0):
    def randn(*shape):
        return torch.randn(*shape, dtype=dtype).to(device)

    ends = torch.tensor(spans, dtype=torch.int64).view(-1, 2).to(device)
    starts, stops = ends[:, 0].contiguous(), ends[:, 1].contiguous()
    rows = max(stop for _, stop in spans) + 2
    x, weight, gradient = randn(rows, probes, width), randn(probes, width), None
    weight *= scale
    gradient = randn(len(spans), probes, width)
    found = attended(x, weight, starts, stops, gradient, backend)
    leaves = [t.double().requires_grad_() for t in (x, weight)]
    means = []
    for start, stop in spans:
        own = leaves[0][start:stop]
        shares = torch.einsum("nkh,kh->nk", own, leaves[1]).softmax(dim=0)
        means.append(torch.einsum("nk,nkh->kh", shares, own))
    out = torch.stack(means)
    expected = (out.detach(), *torch.autograd.grad(out, leaves, gradient.double()))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for own, other in zip(found, expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(own.double(), other, rtol=0, atol=tolerance * size)
    assert not found[1][-2:].any()
