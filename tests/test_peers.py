"""Published packages on the same rows: where they agree, and the disagreements that are known.

docs/measures.md lists the disagreements. The packages are the extra `peers`, a part of `dev`.
"""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bertft import similarity as s
from tests.test_similarity import related

pytestmark = pytest.mark.filterwarnings("ignore")


def package(name):
    return pytest.importorskip(name, reason=f"needs {name}: pip install 'bertft[peers]'")


def rows(n=300, dx=12, dy=9):
    return related(n, dx, dy)


def test_cca_zoo_agrees_on_canonical_correlations():
    x, y = rows()
    model = package("cca_zoo.linear").CCA(n_components=9).fit([x, y])
    a, b = model.transform([x, y])
    expected = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(9)]
    np.testing.assert_allclose(s.cca(x, y).correlations, np.sort(expected)[::-1], atol=1e-8)


def test_rsatoolbox_agrees_on_rsa():
    data, rdm = package("rsatoolbox.data"), package("rsatoolbox.rdm")
    x, y = rows(120)

    def compare(a, b, method, metric):
        rdms = [rdm.calc_rdm(data.Dataset(z), method=metric) for z in (a, b)]
        return rdm.compare(*rdms, method=method).item()

    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)]
    assert s.rsa(x, y) == pytest.approx(compare(*unit, "corr", "euclidean"), abs=1e-9)
    found = s.rsa(x, y, kernel="correlation")
    assert found == pytest.approx(compare(x, y, "corr", "correlation"), abs=1e-9)
    found = s.rsa(x, y, kernel="sqeuclidean", correlation="spearman")
    assert found == pytest.approx(compare(x, y, "spearman", "euclidean"), abs=1e-9)


def test_ckatorch_and_pytorch_cka_agree_on_all_rows_at_once():
    x, y = rows()
    tensors = [torch.from_numpy(z) for z in (x, y)]
    assert package("ckatorch").cka_base(*tensors).item() == pytest.approx(s.cka(x, y), abs=1e-9)
    found = package("cka").cka_from_features(*tensors).item()
    assert found == pytest.approx(s.cka(x, y, debiased=True), abs=1e-9)


def test_repsim_agrees_on_pwcca_as_the_mean_of_both_sides():
    x, y = rows()
    found = package("repsim").pwcca([x, y])[0, 1]
    both = [s.pwcca(x, y, side=side).value for side in ("x", "y")]
    assert found == pytest.approx(np.mean(both), abs=1e-9)


def test_repsim_divides_an_unbiased_numerator_by_biased_denominators():
    repsim = package("repsim")
    x, y = rows(60)
    found = repsim.cka([x, y], "linear", "song")[0, 1]
    unbiased, biased = (repsim.hsic([x, y], "linear", name) for name in ("song", "gretton"))
    ours = s.cka(x, y, debiased=True)
    ratio = unbiased[0, 1] / math.sqrt(unbiased[0, 0] * unbiased[1, 1])
    assert ours == pytest.approx(ratio, abs=1e-9)
    assert found == pytest.approx(unbiased[0, 1] / math.sqrt(biased[0, 0] * biased[1, 1]), abs=1e-9)
    assert abs(found - ours) > 0.01


class Side(torch.nn.Module):
    """Hands a slice of the columns of its input on as a layer."""

    def __init__(self, columns):
        super().__init__()
        self.layer, self.columns = torch.nn.Identity(), columns

    def forward(self, x):
        return self.layer(x[..., self.columns])


def sides(x, y, batch_size):
    """Both sides as models of one input, and its batches in order."""
    data = torch.from_numpy(np.hstack([x, y])).float()
    loader = DataLoader(TensorDataset(data), batch_size=batch_size)
    return Side(slice(0, x.shape[1])), Side(slice(x.shape[1], None)), loader


def by_torch_cka(x, y, batch_size):
    first, second, loader = sides(x, y, batch_size)
    cka = package("torch_cka").CKA(
        first, second, "first", "second", ["layer"], ["layer"], device="cpu"
    )
    cka.compare(loader)
    return cka.export()["CKA"].item()


def by_pytorch_cka(x, y, batch_size):
    compute = package("cka").compute_cka
    first, second, loader = sides(x, y, batch_size)
    [found] = compute(first, second, loader, layers=["layer"], progress=False)
    return found.item()


@pytest.mark.parametrize("by_batches", [by_torch_cka, by_pytorch_cka])
def test_mini_batch_cka_depends_on_the_batch_size(by_batches):
    x, y = (z.astype(np.float32) for z in rows(240))
    # As in a corpus sorted by length or topic: batches are not alike.
    order = np.argsort(x[:, 0])
    x, y = x[order], y[order]
    found = {size: by_batches(x, y, size) for size in (240, 60, 12)}
    assert found[240] == pytest.approx(s.cka(x, y, debiased=True), abs=1e-4)
    assert max(abs(found[size] - found[240]) for size in (60, 12)) > 0.02


def test_ckatorch_keeps_the_last_batch_only():
    x, y = rows(90)
    texts = torch.from_numpy(np.hstack([x, y])).float().reshape(6, 15, -1)  # of 15 words each
    cka = package("ckatorch").CKA(
        Side(slice(0, 12)), Side(slice(12, None)), ["layer"], ["layer"], "a", "b"
    )
    found = cka(DataLoader(TensorDataset(texts)), epochs=1).item()
    last, everything = (s.cka(x[i:], y[i:], debiased=True) for i in (75, 0))
    assert found == pytest.approx(last, abs=1e-4)
    assert abs(found - everything) > 1e-3
