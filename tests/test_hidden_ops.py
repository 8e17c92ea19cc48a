"""Hidden units of probes: every backend against torch's autograd in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import _native, ops
from bertft.ops import native
from tests.test_probe_ops import raw, with_threads

NAN = float("nan")


def units(rows, probes, width, *, dropped=True, scale=1.0):
    """Sums, bias, gain, shift, what is kept, and a gradient."""
    x, gradient = torch.randn(2, rows, probes, width)
    bias, gain, shift = torch.randn(3, probes, width)
    kept = torch.randint(2, x.shape, dtype=torch.uint8) if dropped else None
    return x * scale, bias, gain, shift, kept, gradient


def differentiated(x, bias, gain, shift, kept, gradient, backend=None, factor=1.25):
    """Units, and the gradients of sums, bias, gain and shift, in poisoned tensors."""
    hidden, out, of_x = x.clone(), torch.full_like(x, NAN), gradient.clone()
    found = [torch.full_like(bias, NAN) for _ in "123"]
    layer = (bias, gain, shift, kept)
    ops.tanh_norm(hidden, *layer, out, scale=factor, backend=backend)
    ops.tanh_norm_gradient(hidden, *layer, of_x, *found, scale=factor, backend=backend)
    return out, of_x, *found


def expected(x, bias, gain, shift, kept, gradient, factor=1.25):
    leaves = [t.double().requires_grad_() for t in (x, bias, gain, shift)]
    hidden = torch.tanh(leaves[0] + leaves[1])
    unit = torch.nn.functional.layer_norm(hidden, x.shape[2:])
    out = (unit * leaves[2] + leaves[3]) * (factor if kept is None else factor * kept)
    return out.detach(), *torch.autograd.grad(out, leaves, gradient.double())


def check(given, backend):
    for own, other in zip(differentiated(*given, backend), expected(*given), strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(own.double(), other, rtol=0, atol=2e-6 * size)


@pytest.mark.parametrize("backend", ["native", "eager", "reference"])
@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 5), (33, 3, 256), (100, 2, 40)], ids=str)
def test_hidden_units(backend, shape, dropped):
    check(units(*shape, dropped=dropped), backend)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    probes=st.integers(1, 4),
    width=st.integers(8, 150),
    scale=st.sampled_from([0.01, 1.0]),
    isa=st.sampled_from(native.available_isas()),
    seed=st.integers(0, 99),
)
def test_any_shape_in_every_instruction_set(rows, probes, width, scale, isa, seed):
    torch.manual_seed(seed)
    with native.using_isa(isa):
        check(units(rows, probes, width, scale=scale), "native")


@pytest.mark.parametrize("isa", native.available_isas())
def test_tanh_keeps_the_digits_of_small_and_large_sums(isa):
    x = torch.cat([torch.logspace(-30, 2, 2000), torch.linspace(0.5, 0.75, 2000)])
    x = torch.cat([x, -x, torch.tensor([0.0, 1e30, -1e30])]).view(1, 1, -1)
    hidden, zeros = x.clone(), torch.zeros(1, x.shape[2])
    with native.using_isa(isa):
        ops.tanh_norm(hidden, zeros, zeros, zeros, None, torch.empty_like(x), backend="native")
    torch.testing.assert_close(hidden.double(), x.double().tanh(), rtol=4e-7, atol=0)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_sums_that_are_not_finite_are_seen(bad):
    x, *layer, gradient = units(3, 2, 20, dropped=False)
    x[1, 1, 7] = bad
    out, _, of_bias, *_ = differentiated(x, *layer, gradient, "native")
    assert out[[0, 2]].isfinite().all()
    assert out[1, 0].isfinite().all()
    # tanh of infinity is 1.
    assert out[1, 1].isnan().all() == (bad != bad)
    assert of_bias[1].isnan().any() == (bad != bad)


def test_neither_threads_nor_other_probes_change_a_bit():
    given = units(1700, 5, 256)  # as many as are worth a second thread
    one, three = (with_threads(count, lambda: differentiated(*given, "native")) for count in (1, 3))
    alone = differentiated(*(t[..., 2:3, :].contiguous() for t in given), "native")
    for whole, threaded, own in zip(one, three, alone, strict=True):
        assert torch.equal(whole, threaded)
        assert torch.equal(whole[..., 2:3, :], own)


def arguments():
    x, bias, gain, shift, kept, gradient = units(4, 2, 6)
    first = {"x": x, "bias": bias, "gain": gain, "shift": shift, "kept": kept}
    second = {"hidden": x, **{name: first[name] for name in ("bias", "gain", "shift", "kept")}}
    second["gradient"] = gradient
    sums = {name: torch.zeros(2, 6) for name in ("of_bias", "of_gain", "of_shift")}
    return {**first, "out": torch.zeros(4, 2, 6)}, {**second, **sums}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(4, 6)}, r"x must be \(B, K, H\), got shape \(4, 6\); reshape it"),
        ({"x": torch.zeros(4, 2, 6).double()}, "x must be a contiguous torch.float32"),
        ({"gain": torch.zeros(2, 5)}, r"gain must be .* shape \(2, 6\)"),
        ({"kept": torch.zeros(4, 2, 6)}, "kept must be a contiguous torch.uint8"),
        ({"out": torch.zeros(4, 6, 2).mT}, "out must be a contiguous"),
        ({"backend": "triton"}, r"backend must be one of \('reference', 'native', 'eager'\)"),
    ],
)
def test_refused(changed, message):
    with pytest.raises(ValueError, match=rf"\[tanh_norm\] {message}"):
        ops.tanh_norm(**{**arguments()[0], **changed})


def test_gradients_refuse():
    given = arguments()[1]
    for name in ("hidden", "gradient", "of_bias", "of_shift"):
        with pytest.raises(ValueError, match=rf"\[tanh_norm_gradient\] {name} must be"):
            ops.tanh_norm_gradient(**{**given, name: torch.zeros(3)})


def test_the_core_refuses_by_itself():
    first, second = arguments()
    x, bias, gain, shift, kept, out = raw(*first.values())
    call = _native.tanh_norm
    with pytest.raises(ValueError, match="x must have three axes"):
        call(bias, bias, gain, shift, 1e-5, kept, 1.0, out, 1)
    with pytest.raises(ValueError, match="gain must be float32 of shape"):
        call(x, bias, kept, shift, 1e-5, kept, 1.0, out, 1)
    with pytest.raises(ValueError, match="out must not overlap x"):
        call(x, bias, gain, shift, 1e-5, kept, 1.0, x, 1)
    hidden, *_, gradient, of_bias, of_gain, of_shift = raw(*second.values())
    call = _native.tanh_norm_gradient
    with pytest.raises(ValueError, match="of_gain must be float32 of shape"):
        call(hidden, bias, gain, shift, 1e-5, None, 1.0, gradient, of_bias, out, of_shift, 1)
    with pytest.raises(ValueError, match="gradient must not overlap hidden"):
        call(hidden, bias, gain, shift, 1e-5, None, 1.0, hidden, of_bias, of_gain, of_shift, 1)
