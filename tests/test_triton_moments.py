"""Moments on the device that kernels run on, against those of the native core."""

import pytest
import torch

import bertft
from bertft import Moments, devices, ops, similarity

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def sides(n=20, d=6):
    x = torch.randn(n, d).add(0.5)
    return {"x": x, "y": x @ torch.randn(d, d) + 0.3 * torch.randn(n, d)}


def added(parts, device, **options):
    moments = Moments({"x": 6, "y": 6}, [("x", "y")], device=device)
    for rows in parts:
        moments.update({side: x.to(device) for side, x in rows.items()}, **options)
    return moments


def test_moments_of_kernels_give_the_same_measures():
    parts = [sides(), sides()]
    fault = torch.full((), -1, dtype=torch.int64, device=DEVICE)
    found = added(parts, DEVICE, backend="triton", fault=fault)
    found.require_usable(fault)
    assert found.device.type == DEVICE
    expected = added(parts, "cpu")
    for measure in (similarity.rsa, similarity.cka):
        assert measure(found.to("cpu")) == pytest.approx(measure(expected), abs=1e-6)
    merged = added(parts[:1], DEVICE) + added(parts[1:], DEVICE) - added(parts[:1], DEVICE)
    assert merged.device.type == DEVICE
    alone = added(parts[1:], "cpu")
    assert similarity.cka(merged.to("cpu")) == pytest.approx(similarity.cka(alone), abs=1e-6)


def test_a_noted_row_is_told_by_the_name_of_its_side():
    rows = sides()
    rows["y"][3] = 0.0
    fault = torch.full((), -1, dtype=torch.int64, device=DEVICE)
    moments = added([rows], DEVICE, backend="triton", fault=fault)
    with pytest.raises(ValueError, match=r"rows of 'y' must have a direction .* a zero row at 3"):
        moments.require_usable(fault)


def test_rows_are_summed_where_they_are_only_if_a_backend_does(monkeypatch):
    gpu, other, cpu = torch.device("cuda:1"), torch.device("cuda:0"), torch.device("cpu")
    assert ops.device_of_sums([gpu, gpu], None) == gpu
    assert ops.device_of_sums([gpu], "native") == cpu
    assert ops.device_of_sums([gpu, other], None) == cpu
    assert ops.device_of_sums([torch.device("mps")], None) == cpu
    assert ops.device_of_sums([], None) == cpu
    monkeypatch.setattr("bertft.ops.backends.find_spec", lambda name: None)
    assert ops.device_of_sums([gpu], None) == cpu


def test_compare_by_kernels_agrees_with_the_native_core(checkpoint):
    base, tuned = checkpoint("base"), checkpoint("tuned", seed=1)
    texts = ["the cat sat on the mat", "a dog ran and a cat saw the boat"]
    given = {"measures": ["rsa", "cka", "rsa_spearman"], "limit": 6, "pairs": "same"}
    given |= {"device": DEVICE, "sample": 5}
    found = bertft.compare(base, tuned, texts, backend="triton", **given)
    given |= {"device": "cpu"}
    expected = bertft.compare(base, tuned, texts, backend="native", **given)
    assert found.table["value"].to_numpy() == pytest.approx(
        expected.table["value"].to_numpy(), abs=2e-5 if DEVICE == "cuda" else 1e-6
    )
    assert found.provenance["options"]["backend"] == "triton"
    assert found.provenance["options"]["dot_precision"] == "tf32x3"


def test_the_precision_of_products_is_that_of_the_rows(checkpoint):
    models, texts = [checkpoint("base"), checkpoint("tuned", seed=1)], ["the cat sat on the mat"]
    given = {"backend": "triton", "measures": ["cka"], "device": DEVICE}
    found = bertft.compare(*models, texts, dtype="float64", **given)
    assert found.provenance["options"]["dot_precision"] == "ieee"


def test_the_main_stream_waits_for_sums_that_an_error_frees(checkpoint, monkeypatch):
    def broken(model):
        model.encoder.layer[1].output.dense.bias.data.fill_(float("nan"))

    base, tuned, waits = checkpoint("base"), checkpoint("tuned", change=broken), []
    waited = devices.SideStream.main_waits_for

    def wait(stream, event):
        waits.append(event)
        waited(stream, event)

    monkeypatch.setattr(devices.SideStream, "main_waits_for", wait)
    with pytest.raises(ValueError, match="NaN or infinity in layer 2 of the finetuned model"):
        bertft.compare(base, tuned, ["the cat sat"], measures=["cka"], device=DEVICE)
    assert waits
