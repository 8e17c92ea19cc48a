"""The laws of moments: merging, moving, chunking, saving; and what they refuse."""

import math
from itertools import pairwise

import pytest
import torch

from bertft import Moments
from bertft.moments import save_moments
from tests.tolerances import DTYPES, name

MAPS = ("raw", "unit", "centered_unit")


def pair_of_rows(n=300, dx=12, dy=9, dtype=torch.float64):
    x = torch.randn(n, dx, dtype=torch.float64) + 2.0
    y = torch.randn(n, dy, dtype=torch.float64) @ torch.randn(dy, dy, dtype=torch.float64) - 1.0
    return x.to(dtype), y.to(dtype)


def first_order(moments):
    """Mean norms, and mean distances of pairs of one width."""
    pairs = [(a, b) for a, b in moments.pairs if moments.widths[a] == moments.widths[b]]
    norms = [moments.mean_norm(side) for side in moments.sides]
    return norms + [moments.mean_distance(*pair) for pair in pairs]


def sums_about_zero(moments):
    """Every sum, about one origin."""
    found = [torch.tensor(first_order(moments), dtype=torch.float64)]
    for row_map in moments.row_maps:
        sums = moments.under(row_map)
        sums = sums.about({side: torch.zeros_like(sums.totals[side]) for side in sums.sides})
        found += sums.totals.values()
        found += [sum_ for pair in sums.crosses for sum_ in sums.cross(*pair)]
    return found


def assert_same(a, b, rtol=1e-12):
    assert a.n == b.n
    for own, other in zip(sums_about_zero(a), sums_about_zero(b), strict=True):
        torch.testing.assert_close(own, other, rtol=rtol, atol=rtol * float(other.abs().max()))


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_sums_are_the_definition(dtype, backend):
    x, y = pair_of_rows(dtype=dtype)
    moments = Moments.of(x, y, row_maps=MAPS, backend=backend)
    x, y = x.double(), y.double()
    for row_map in MAPS:
        zx, zy = x, y
        if row_map == "centered_unit":
            zx, zy = (z - z.mean(dim=1, keepdim=True) for z in (x, y))
        if row_map != "raw":
            zx, zy = (z / z.norm(dim=1, keepdim=True) for z in (zx, zy))
        sums = moments.under(row_map)
        tolerance = {"rtol": 0, "atol": (1e-12 if dtype == torch.float64 else 2e-6) * len(x) * 90}
        torch.testing.assert_close(sums.mean("x"), zx.mean(dim=0), rtol=0, atol=1e-6)
        zx, zy = zx - zx.mean(dim=0), zy - zy.mean(dim=0)
        torch.testing.assert_close(sums.scatter("x", "y"), zx.T @ zy, **tolerance)
        torch.testing.assert_close(sums.scatter("y", "y"), zy.T @ zy, **tolerance)
        about = sums.about({side: sums.mean(side) for side in sums.sides})
        k, q = zx.square().sum(dim=1), zy.square().sum(dim=1)
        cross = about.cross("x", "y")
        for sum_, expected in ((cross.left, q @ zx), (cross.right, k @ zy)):
            torch.testing.assert_close(sum_, expected, **tolerance)
        torch.testing.assert_close(cross.weight, (k @ q)[None], rtol=1e-5, atol=0)
        assert sums.weight("x", "y") == pytest.approx(float(k @ q), rel=1e-5)
        assert sums.squares("y") == pytest.approx(float(q.sum()), rel=1e-6)
    assert moments.mean_norm("x") == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-12)


def test_first_order_sums_need_equal_widths():
    x, _ = pair_of_rows()
    moments = Moments.of(x, x + 1.0)
    assert moments.mean_distance("x", "y") == pytest.approx(math.sqrt(12.0), rel=1e-12)
    assert moments.mean_distance("y", "x") == moments.mean_distance("x", "y")
    with pytest.raises(ValueError, match=r"\[Moments.mean_distance\] .* got 12 and 9"):
        Moments.of(*pair_of_rows()).mean_distance("x", "y")


def test_merged_parts_equal_one_part_with_one_origin():
    x, y = pair_of_rows()
    whole = Moments.of(x, y, row_maps=MAPS)
    again = Moments.of(x, y, row_maps=MAPS)
    twice = whole + again
    for row_map in MAPS:
        for pair, cross in twice.under(row_map).crosses.items():
            single = whole.under(row_map).crosses[pair]
            for sum_, half in zip(cross, single, strict=True):
                torch.testing.assert_close(sum_, 2 * half, rtol=5e-16, atol=0)


@pytest.mark.parametrize("cuts", [(1,), (150,), (10, 20, 299), (100, 200)])
def test_merged_parts_equal_one_part(cuts):
    x, y = pair_of_rows()
    bounds = [0, *cuts, len(x)]
    parts = [Moments.of(x[i:j], y[i:j], row_maps=MAPS) for i, j in pairwise(bounds)]
    assert_same(sum(parts), Moments.of(x, y, row_maps=MAPS))


def test_merging_parts_far_apart():
    x, y = pair_of_rows()
    x[150:] += 50.0
    y[150:] -= 70.0
    parts = Moments.of(x[:150], y[:150]) + Moments.of(x[150:], y[150:])
    assert_same(parts, Moments.of(x, y), rtol=1e-11)


def test_merging_is_commutative_and_has_a_zero():
    x, y = pair_of_rows()
    a, b = Moments.of(x[:100], y[:100]), Moments.of(x[100:], y[100:])
    assert_same(a + b, b + a)
    empty = Moments({"x": 12, "y": 9}, [("x", "y")])
    assert_same(a + empty, a)
    assert_same(empty + a, a)


def test_rows_may_come_in_any_batches():
    x, y = pair_of_rows()
    moments = Moments({"x": 12, "y": 9}, [("x", "y")])
    for start in range(0, 300, 7):
        moments.update({"x": x[start : start + 7], "y": y[start : start + 7]})
    assert_same(moments, Moments.of(x, y))


def test_threads_do_not_change_a_bit():
    x, y = pair_of_rows(3000, dtype=torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(Moments.of(x, y, row_maps=MAPS))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert_same(found[0], other, rtol=0)


def test_memory_does_not_grow_with_n():
    x, y = pair_of_rows()
    moments = Moments.of(x[:10], y[:10])
    before = moments.nbytes
    moments.update({"x": x, "y": y})
    assert moments.nbytes == before


def test_pair_of_many_sides():
    rows = {side: torch.randn(50, d).double() for side, d in (("a", 3), ("b", 4), ("c", 4))}
    moments = Moments({side: x.shape[1] for side, x in rows.items()}, [("a", "b"), ("b", "c")])
    moments.update(rows)
    for a, b in (("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")):
        part = moments.pair(a, b)
        expected = Moments.of(rows[a], rows[b])
        assert part.sides == (a, b)
        torch.testing.assert_close(
            part.under("raw").scatter(a, b), expected.under("raw").scatter("x", "y")
        )
        assert first_order(part) == pytest.approx(first_order(expected))
    turned = moments.pair("b", "a")
    turned.update({side: rows[side] for side in ("b", "a")})
    assert turned.n == 100
    with pytest.raises(KeyError, match=r"\[Moments.pair\] .*got \('a', 'c'\)"):
        moments.pair("a", "c")


def test_a_pair_does_not_follow_later_rows():
    x, y = pair_of_rows()
    moments = Moments.of(x[:100], y[:100])
    part = moments.pair("x", "y")
    before = part.under("raw").scatter("x", "y").clone()
    moments.update({"x": x[100:], "y": y[100:]})
    assert torch.equal(part.under("raw").scatter("x", "y"), before)
    assert not torch.allclose(moments.under("raw").scatter("x", "y"), before)


def test_save_and_load(tmp_path):
    moments = Moments.of(*pair_of_rows(dtype=torch.float32), row_maps=MAPS)
    moments.save(tmp_path / "moments.safetensors")
    loaded = Moments.load(tmp_path / "moments.safetensors")
    assert (loaded.n, loaded.dtype, repr(loaded)) == (moments.n, moments.dtype, repr(moments))
    assert_same(loaded, moments, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["moments.safetensors"]


def test_load_by_name(tmp_path):
    parts = {f"corpus {i}": Moments.of(*pair_of_rows(50 + i)) for i in range(12)}
    save_moments(tmp_path / "all", parts)
    for corpus, moments in parts.items():
        assert_same(Moments.load(tmp_path / "all", corpus), moments, rtol=0)
    with pytest.raises(ValueError, match=r"\[Moments.load\] name must be one of .* got None"):
        Moments.load(tmp_path / "all")


def test_load_refuses_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        Moments.load(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        Moments.load(tmp_path / "text")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"must hold bertft\.moments\.2, got None"):
        Moments.load(tmp_path / "other")
    Moments.of(*pair_of_rows()).save(tmp_path / "cut")
    whole = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        Moments.load(tmp_path / "cut")


def bad(value, row=3):
    x, y = pair_of_rows()
    x[row, 1] = value
    return x, y


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Moments.of(*bad(float("nan"))), ValueError, "'x' must be finite.* row 3"),
        (lambda: Moments.of(*bad(float("inf"), 299)), ValueError, "finite.* row 299"),
        (lambda: Moments.of(torch.ones(3), torch.ones(3, 1)), TypeError, "x must be a floating"),
        (lambda: Moments.of(torch.ones(3, 1), [[1], [2]]), TypeError, "y must be a floating"),
        (lambda: Moments.of(torch.ones(3, 1), torch.ones(4, 1)), ValueError, "same positions"),
        (lambda: Moments({"x": 1}, [("x", "x")]), ValueError, "two different sides"),
        (lambda: Moments({"x": 1}, [("x", "y")]), ValueError, "two different sides"),
        (lambda: Moments({"x": 1}, [], ["cosine"]), ValueError, "row_maps must be among"),
        (lambda: Moments({"x": 1}, []).under("centered_unit"), ValueError, "must be one that is"),
        (lambda: Moments({"x": 1}, []).update({}), ValueError, "same positions on sides"),
        (lambda: Moments({"x": 1}, []) + Moments({"x": 2}, []), ValueError, "parts must have"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_row_without_direction_is_refused_by_side():
    x, y = pair_of_rows()
    y[7] = 0.0
    with pytest.raises(
        ValueError, match=r"'y' must have a direction under a cosine.* zero row at 7"
    ):
        Moments.of(x, y)
    Moments.of(x, y, row_maps=["raw"])
    y[7] = 3.0
    Moments.of(x, y)
    with pytest.raises(ValueError, match="correlation kernel, got a constant row at 7"):
        Moments.of(x, y, row_maps=["centered_unit"])


def test_a_refused_update_changes_nothing():
    x, y = pair_of_rows()
    moments = Moments.of(x, y)
    before = [sum_.clone() for sum_ in sums_about_zero(moments)]
    bad_rows = x.clone()
    bad_rows[5000 % 300, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        moments.update({"x": bad_rows, "y": y})
    assert moments.n == 300
    assert all(torch.equal(a, b) for a, b in zip(before, sums_about_zero(moments), strict=True))


def test_a_view_that_negates_its_values_is_read_with_them_negated():
    x = torch.randn(50, 6, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    found = Moments.of(x, x).under("raw").mean("x")
    torch.testing.assert_close(found, x.double().mean(dim=0), rtol=1e-6, atol=1e-7)
