"""Self-attentive pooling of spans: every backend on the CPU against torch's autograd in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import _native, ops
from bertft.ops import native
from tests.attended import SPANS, attended, check_attended
from tests.test_probe_ops import raw, with_threads

NAN = float("nan")


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("native", torch.float32),
        ("eager", torch.float32),
        ("eager", torch.float64),
        ("reference", torch.float64),
        (None, torch.float64),
    ],
    ids=str,
)
@pytest.mark.parametrize("spans", SPANS, ids=str)
@pytest.mark.parametrize(("probes", "width"), [(1, 1), (3, 40), (2, 200)])
def test_spans_are_attended(backend, spans, probes, width, dtype):
    check_attended(backend, spans, probes, width, dtype)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=90),
    probes=st.integers(1, 4),
    width=st.integers(1, 150),
    isa=st.sampled_from(native.available_isas()),
    seed=st.integers(0, 99),
)
def test_any_spans_in_every_instruction_set(lengths, probes, width, isa, seed):
    torch.manual_seed(seed)
    starts = torch.randint(0, 30, (len(lengths),)).tolist()
    spans = [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    with native.using_isa(isa):
        check_attended("native", spans, probes, width, torch.float32, scale=width**-0.5)


def test_neither_threads_nor_other_probes_change_a_bit():
    starts = torch.randint(0, 300, (200,))
    stops = starts + torch.randint(1, 9, (200,))
    x, weight, gradient = torch.randn(310, 5, 256), torch.randn(5, 256), torch.randn(200, 5, 256)
    one, three = (
        with_threads(count, lambda: attended(x, weight, starts, stops, gradient, "native"))
        for count in (1, 3)
    )
    alone = attended(
        *(t[..., 2:3, :].contiguous() for t in (x, weight)),
        starts,
        stops,
        gradient[:, 2:3].contiguous(),
        "native",
    )
    for whole, threaded, own in zip(one, three, alone, strict=True):
        assert torch.equal(whole, threaded)
        assert torch.equal(whole[..., 2:3, :], own)


def test_rows_that_are_not_finite_are_seen():
    x, weight = torch.randn(6, 2, 20), torch.randn(2, 20)
    x[3, 1, 7] = NAN
    starts, stops = torch.tensor([0, 2]), torch.tensor([2, 5])
    out, of_x, of_weight = attended(x, weight, starts, stops, torch.randn(2, 2, 20), "native")
    assert out[0].isfinite().all()
    assert out[1, 0].isfinite().all()
    assert out[1, 1].isnan().all()
    assert of_x[2:5, 1].isnan().any()
    assert of_weight[1].isnan().all()


def given_spans():
    spans = {"starts": torch.tensor([0, 1]), "stops": torch.tensor([1, 4])}
    given = {"x": torch.zeros(4, 2, 3), "weight": torch.zeros(2, 3), **spans}
    given |= {"out": torch.zeros(2, 2, 3), "logsums": torch.zeros(2, 2)}
    gradients = {"gradient": torch.zeros(2, 2, 3), "of_x": torch.zeros(4, 2, 3)}
    return given, gradients | {"of_weight": torch.zeros(2, 3)}


@pytest.mark.parametrize("backend", ["native", "eager", "reference"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(4, 2)}, r"x must be a float32 or float64 \(N, K, H\) tensor, got"),
        ({"x": torch.zeros(4, 2, 3).half()}, "x must be a float32 or float64 .* got torch.float16"),
        ({"weight": torch.zeros(3, 2)}, r"weight must be .* shape \(2, 3\)"),
        ({"starts": torch.tensor([0.0, 1.0])}, "starts must be a contiguous torch.int64"),
        ({"stops": torch.tensor([1])}, r"stops must be .* shape \(2,\)"),
        ({"stops": torch.tensor([1, 1])}, r"spans must be non-empty .* got \[1, 1\) at 1; drop"),
        ({"stops": torch.tensor([1, 5])}, r"inside x of 4 rows, got \[1, 5\) at 1; drop it"),
        ({"out": torch.zeros(2, 2, 4)}, r"out must be .* shape \(2, 2, 3\)"),
        ({"logsums": torch.zeros(2, 2).double()}, "logsums must be a contiguous torch.float32"),
        ({"backend": "none"}, r"one of \('reference', 'native', 'triton', 'eager'\), got 'none'"),
    ],
)
def test_refused(backend, changed, message):
    given, gradients = given_spans()
    for op, more in ((ops.attend_spans, {}), (ops.attend_spans_gradient, gradients)):
        with pytest.raises(ValueError, match=rf"\[{op.__name__}\] .*{message}"):
            op(**{"backend": backend, **given, **more, **changed})


def test_the_kernel_has_no_float64():
    given, _ = given_spans()
    wide = {key: t.double() if t.is_floating_point() else t for key, t in given.items()}
    with pytest.raises(ValueError, match=r"must be torch\.float32 for the native"):
        ops.attend_spans(**wide, backend="native")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(4, 6)}, "x must have three axes"),
        ({"weight": torch.zeros(2, 4)}, "weight must be float32 of shape"),
        ({"stops": torch.tensor([1, 5])}, r"spans must be .* got \[1, 5\) at 1"),
        ({"starts": torch.tensor([-1, 1])}, r"spans must be .* got \[-1, 1\) at 0"),
        ({"out": torch.zeros(2, 2, 3).mT.contiguous().mT}, "out must be contiguous"),
        ({"logsums": torch.zeros(2, 3)}, "logsums must be float32 of shape"),
    ],
)
def test_the_core_refuses_by_itself(changed, message):
    given, gradients = given_spans()
    for call, more in (
        (_native.attend_spans, {}),
        (_native.attend_spans_gradient, gradients),
    ):
        with pytest.raises(ValueError, match=message):
            call(*raw(*(given | more | changed).values()), 1)


def test_outputs_overlap_nothing():
    given, _ = given_spans()
    with pytest.raises(ValueError, match="out must not overlap x"):
        ops.attend_spans(**given | {"out": given["x"][:2]})
