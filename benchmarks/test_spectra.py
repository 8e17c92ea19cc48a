"""Spectra of a batch of 26 matrices, one thread for each, beside torch on all threads in turn.

One-sided Jacobi was tried as well, and took 1.4 to 3.7 times as long as LAPACK at 32 columns and 6
to 26 times at 384. There is no ceiling to count against: most of the work is not multiply-adds.
"""

import numpy as np
import pytest
import scipy.linalg
import torch

from bertft import ops

COUNT = 26


def problems(d, is_symmetric):
    torch.manual_seed(0)
    matrices = [torch.randn(d, d).double() for _ in range(COUNT)]
    return [z @ z.T for z in matrices] if is_symmetric else matrices


def contenders(kind, d):
    matrices = problems(d, kind.startswith("eig"))
    values = [torch.empty(d).double() for _ in matrices]
    left, right = ([torch.empty(d, d).double() for _ in matrices] for _ in range(2))
    call, theirs, scipys = {
        "eigh": (lambda: ops.eigh(matrices, values, left), torch.linalg.eigh, scipy.linalg.eigh),
        "eigvalsh": (
            lambda: ops.eigh(matrices, values), torch.linalg.eigvalsh, scipy.linalg.eigvalsh
        ),
        "svd": (
            lambda: ops.svd(matrices, values, left, right), torch.linalg.svd, scipy.linalg.svd
        ),
        "svdvals": (
            lambda: ops.svd(matrices, values), torch.linalg.svdvals, scipy.linalg.svdvals
        ),
    }[kind]  # fmt: skip
    call()
    found = theirs(matrices[0])
    expected = found[kind == "svd"] if isinstance(found, tuple) else found
    np.testing.assert_allclose(values[0], expected, rtol=0, atol=1e-12 * float(expected.max()))
    arrays = [z.numpy() for z in matrices]
    return {
        "bertft": call,
        "torch": lambda: [theirs(z) for z in matrices],
        "scipy": lambda: [scipys(z) for z in arrays],
    }


@pytest.mark.parametrize("who", ["bertft", "torch", "scipy"])
@pytest.mark.parametrize("d", [32, 128, 384, 768, 1024])
@pytest.mark.parametrize("kind", ["eigh", "eigvalsh", "svd", "svdvals"])
def test_spectra(benchmark, race, kind, d, who):
    benchmark.group = f"{kind} of {COUNT} matrices, d = {d:,}"
    race((kind, d), lambda: contenders(kind, d), who, rounds=2 if d > 384 else 5)
