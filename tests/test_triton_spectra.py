"""Spectra on a GPU: the block Jacobi kernel, norms by products, and the choice by measurements."""

import json

import pytest
import torch

from bertft import ops

pytest.importorskip("triton")
from bertft.ops.triton import jacobi, polar, spectra

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAME = spectra.device_name(torch.empty(0, device=DEVICE))
# The interpreter computes with NumPy, which warns where a quotient is beyond all numbers.
pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE)


# By LAPACK, which scales what is very large or small; cuSOLVER is what some ways call themselves.
def eigenvalues(matrices):
    return torch.linalg.eigvalsh(matrices.cpu()).to(DEVICE)


def norms_of(matrices):
    return torch.linalg.svdvals(matrices.cpu()).sum(dim=-1).to(DEVICE)


def symmetric(kind, d):
    x = randn(d, d)
    if kind == "indefinite":
        return x + x.T
    if kind == "low rank":
        return x[:, : d // 3 + 1] @ x[:, : d // 3 + 1].T
    if kind == "clustered":
        return torch.eye(d, dtype=x.dtype, device=DEVICE) + 1e-9 * (x + x.T)
    if kind == "huge":
        return 1e200 * (x + x.T)
    if kind == "largest":
        # Eigenvalues of 1.2e308 on both sides; the sum of a row overflows.
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=x.dtype, device=DEVICE)
        return 6e307 * torch.kron(signs, signs)
    return torch.zeros_like(x)


KINDS = [(kind, 7) for kind in ("low rank", "clustered", "huge", "zero")]


@pytest.mark.parametrize(
    ("kind", "d"), [("indefinite", 1), ("indefinite", 16), ("largest", 4), *KINDS]
)
def test_eigh_by_jacobi(kind, d):
    matrix = symmetric(kind, d)
    found = torch.full_like(matrix, float("nan"))
    values, alone = found[0].clone(), found[0].clone()
    ops.eigh([matrix.triu()], [values], [found], backend="triton")
    ops.eigh([matrix], [alone], backend="triton")
    expected = eigenvalues(matrix)
    scale = 1e-12 * max(float(expected.abs().max()), 1e-300)
    torch.testing.assert_close(values, expected, rtol=0, atol=scale)
    torch.testing.assert_close(alone, values, rtol=0, atol=scale)
    torch.testing.assert_close(found @ torch.diag(values) @ found.T, matrix, rtol=0, atol=scale)
    identity = torch.eye(d, dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(found.T @ found, identity, rtol=0, atol=1e-12)


def test_blocks_meet_and_matrices_do_not(monkeypatch):
    """Two matrices of 17 columns, four blocks of 8 of which are padding, in one launch."""
    monkeypatch.setattr(jacobi, "BLOCK", 8)
    identity = torch.eye(17, dtype=torch.float64, device=DEVICE)
    matrices = torch.stack([2.0 * identity, symmetric("indefinite", 17)])
    values, rows, failed = jacobi.jacobi(matrices)
    assert not failed.any()
    scale = 1e-12 * float(values.abs().max())
    torch.testing.assert_close(values, eigenvalues(matrices), rtol=0, atol=scale)
    rebuilt = rows.mT @ torch.diag_embed(values) @ rows
    torch.testing.assert_close(rebuilt, matrices, rtol=0, atol=scale)
    assert torch.equal(rows[0], identity)


def test_a_matrix_that_takes_too_long_is_told(monkeypatch):
    monkeypatch.setattr(jacobi, "SWEEPS", 1)
    matrices = [symmetric("zero", 9), symmetric("indefinite", 9)]
    values = [torch.empty(9, dtype=torch.float64, device=DEVICE) for _ in matrices]
    with pytest.raises(torch.linalg.LinAlgError, match=r"matrices\[1\] must have a spectrum"):
        ops.eigh(matrices, values, backend="triton")


def test_svd_of_several_shapes():
    matrices = [randn(5, 3), randn(3, 5), randn(5, 3), randn(0, 4)]
    least = [min(x.shape) for x in matrices]
    values = [randn(k) for k in least]
    left = [randn(len(x), k) for x, k in zip(matrices, least, strict=True)]
    right = [randn(k, x.shape[1]) for x, k in zip(matrices, least, strict=True)]
    ops.svd(matrices, values, left, right, backend="triton")
    alone = [randn(k) for k in least]
    ops.svd(matrices, alone, backend="triton")
    for x, u, s, vh, a in zip(matrices, left, values, right, alone, strict=True):
        torch.testing.assert_close(u @ torch.diag(s) @ vh, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(a, s, rtol=1e-12, atol=1e-12)


SHAPES = [(1, 1), (3, 7), (7, 3), (40, 40)]


@pytest.mark.parametrize("backend", ["reference", "triton", *(["native"] * (DEVICE == "cpu"))])
def test_nuclear_norms(backend):
    matrices = [randn(*shape) for shape in [*SHAPES, (3, 7), (0, 4)]]
    norms = torch.full((len(matrices),), float("nan"), dtype=torch.float64, device=DEVICE)
    ops.nuclear_norms(matrices, norms, backend=backend)
    expected = torch.stack([norms_of(x) for x in matrices])
    torch.testing.assert_close(norms, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["random", "rank one", "graded", "zero", "huge", "tiny"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norms_by_products(kind, shape):
    matrices = randn(2, *shape)
    if kind == "rank one":
        matrices = matrices[:, :, :1] @ matrices[:, :1]
    if kind == "graded":
        matrices *= 10.0 ** -torch.linspace(0, 14, shape[1], dtype=torch.float64).to(DEVICE)
    matrices *= {"zero": 0.0, "huge": 1e200, "tiny": 1e-200}.get(kind, 1.0)
    found = polar.polar_norms(matrices)
    torch.testing.assert_close(found, norms_of(matrices), rtol=1e-12, atol=0)


def row(way, size, seconds, operation="nuclear_norms", device="gpu"):
    own = {"device": device, "operation": operation, "size": size, "way": way}
    return json.dumps({**own, "batch": 1, "seconds": seconds})


def test_the_fastest_way_at_the_nearest_size_is_chosen(tmp_path):
    table = tmp_path / "table.jsonl"
    rows = [row("gesvdj", 100, 1.0), row("polar", 100, 2.0), row("gesvdj", 1000, 2.0)]
    rows += [
        row("polar", 1000, 1.0),
        row("gesvd", 100, 0.1, "svd"),
        row("gesvd", 1, 0.1, device=""),
    ]
    rows += [row("jacobi", 128, 1.0, "eigh"), row("cusolver", 128, 2.0, "eigh")]
    table.write_text("\n".join(rows))
    chosen = [spectra.choose_way("nuclear_norms", d, "gpu", table) for d in (5, 300, 330, 9000)]
    assert chosen == ["gesvdj", "gesvdj", "polar", "polar"]
    assert spectra.choose_way("svd", 100, "gpu", table) == "gesvd"
    eigh = [spectra.choose_way("eigh", d, "gpu", table) for d in (100, 129)]
    assert eigh == ["jacobi", "cusolver"]


def test_without_measurements_small_symmetric_matrices_take_jacobi():
    ways = [spectra.choose_way("eigh", d, "no such device") for d in (1, 128, 129)]
    assert ways == ["jacobi", "jacobi", "cusolver"]
    for operation in ("svd", "svdvals", "nuclear_norms"):
        assert spectra.choose_way(operation, 64, "no such device") == "cusolver"


def test_measurements_are_chosen_by(tmp_path, monkeypatch):
    """The script that times ways writes rows that the choice is made by."""
    from benchmarks import spectra_of_device

    table = tmp_path / "table.jsonl"
    table.write_text(row("polar", 4, 1.0) + "\n")
    ways = {"nuclear_norms": ("cusolver", "polar"), "eigh": ("cusolver",)}
    monkeypatch.setattr(spectra_of_device, "WAYS", ways)
    monkeypatch.setattr(spectra_of_device, "MOST", 2)
    rows = spectra_of_device.rows_of(DEVICE, sizes=(4,))
    assert [r["way"] for r in rows] == ["cusolver", "polar", "cusolver"]
    for _ in range(2):
        spectra_of_device.write(rows, table)
    written = [json.loads(line) for line in table.read_text().splitlines()]
    assert written == [json.loads(row("polar", 4, 1.0)), *rows]
    fastest = min(rows[:2], key=lambda r: r["seconds"])["way"]
    assert spectra.choose_way("nuclear_norms", 4, NAME, table) == fastest


def test_every_row_of_the_table_is_of_a_way_there_is():
    for line in spectra.TABLE.read_text().splitlines():
        measured = json.loads(line)
        assert measured["way"] in spectra.WAYS[measured["operation"]]
        assert measured["seconds"] > 0.0
