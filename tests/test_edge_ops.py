"""Edge probes: every backend on the CPU against torch's autograd in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import _native, ops
from bertft.ops import native
from tests.edge_gradients import answered, asked, check
from tests.test_probe_ops import raw, with_threads

NAN = float("nan")


@pytest.mark.parametrize("backend", ["native", "composed"])
@pytest.mark.parametrize("softmax", [False, True], ids=["sigmoid", "softmax"])
@pytest.mark.parametrize(
    "given",
    [
        {"spans": 1},
        {"spans": 2},
        {"spans": 2, "symmetric": True},
        {"spans": 2, "own": True},
        {"spans": 1, "own": True, "k": 1, "b": 1},
        {"k": 3, "d": 40, "p": 48, "h": 33, "c": 1, "b": 130, "n": 200},
    ],
    ids=str,
)
def test_gradients(backend, softmax, given):
    check(asked(**given, softmax=softmax), backend)


@pytest.mark.parametrize("backend", ["native", "composed"])
def test_gradients_without_dropout(backend):
    check(asked() | {"kept": None}, backend)


def test_the_definition_is_the_derivative():
    """Central differences of the losses, by each of the parameters and by the rows."""
    given = asked(k=1, d=3, p=4, h=5, c=2, b=4, n=8, symmetric=True, own=True)
    given["scales"] = torch.ones(1)
    _, [_, *found] = answered(given, "reference")
    tensors = [*given["probes"].tensors, *(span.x for span in given["spans"])]
    for tensor, gradient in zip(tensors, found, strict=True):
        for place in torch.randperm(tensor.numel())[:3].tolist():
            ends = []
            for step in (1e-2, -2e-2):
                tensor.view(-1)[place] += step
                ends.append(float(answered(given, "reference")[1][0][0]))
            tensor.view(-1)[place] += 1e-2
            slope = (ends[0] - ends[1]) / 2e-2
            assert slope == pytest.approx(float(gradient.view(-1)[place]), rel=1e-2, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(1, 4),
    d=st.integers(1, 40),
    p=st.integers(1, 40),
    h=st.integers(8, 40),
    c=st.integers(1, 20),
    b=st.integers(1, 70),
    isa=st.sampled_from(native.available_isas()),
    seed=st.integers(0, 99),
)
def test_any_shape_in_every_instruction_set(k, d, p, h, c, b, isa, seed):
    torch.manual_seed(seed)
    with native.using_isa(isa):
        check(asked(k=k, d=d, p=p, h=h, c=c, b=b), "native")


def test_logits_are_those_that_losses_are_of():
    given = asked(softmax=True)
    k, c = given["probes"].bias.shape
    out = torch.full((k, c, 9), NAN)
    ops.edge_logits(given["probes"], given["spans"], out)
    losses = torch.zeros(k).double()
    offsets = torch.arange(k + 1) * c
    ops.softmax_gradient(out.flatten(0, 1), offsets, given["targets"], losses)
    given |= {"kept": None, "scale": 1.0, "losses": torch.zeros(k).double()}
    torch.testing.assert_close(answered(given, "reference")[1][0], losses, rtol=1e-5, atol=1e-6)


def test_neither_threads_nor_other_probes_change_a_bit():
    given = asked(k=5, d=64, p=256, h=256, c=7, b=150, n=300)
    one, three = (with_threads(t, lambda: answered(given, "native")[1]) for t in (1, 3))

    def of_one(t):
        return t[2:3].contiguous()

    alone = given | {
        "probes": ops.EdgeProbes.of([of_one(t) for t in given["probes"].tensors]),
        "gradients": ops.EdgeProbes.of([of_one(t) for t in given["gradients"].tensors]),
        "targets": given["targets"].view(5, 7, -1)[2].contiguous(),
        "scales": of_one(given["scales"]),
        "losses": of_one(given["losses"]),
        "kept": given["kept"][2:3],
    }
    found = answered(alone, "native")[1]
    for whole, threaded, own in zip(one, three, found, strict=True):
        assert torch.equal(whole, threaded)
        assert torch.equal(whole[2:3], own)


@pytest.mark.parametrize("backend", ["native", "composed", "reference"])
def test_logits_that_are_not_finite_are_told(backend):
    given = asked()
    given["targets"].zero_()
    given["probes"].bias[1, 0] = NAN
    assert not answered(given, backend)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["spans"].append(g["spans"][0]), "one projection, or one for each span, got 2"),
        (lambda g: g.update(spans=[]), "one projection, or one for each span, got 2 for 0"),
        (lambda g: g.update(kept=g["kept"][1:]), "kept must be a contiguous torch.uint8"),
        (lambda g: g.update(scales=g["scales"].double()), "scales must be .* torch.float32"),
        (lambda g: g.update(targets=g["targets"][1:]), r"targets must be .* shape \(6, 9\)"),
        (lambda g: g.update(of_x=[torch.zeros(3)]), "of_x must have 2 entries, got 1"),
        (lambda g: g["spans"][0].stops.add_(100), r"spans must be .* inside x of 20 rows, got \["),
        (lambda g: g["targets"].fill_(7), "targets must be 0, 1 or 255 for none, got 7"),
        (lambda g: g.update(backend="triton"), r"one of \('reference', 'native', 'composed'\)"),
    ],
)
def test_refused(change, message):
    given = asked()
    change(given)
    with pytest.raises(ValueError, match=rf"\[edge_gradient\] .*{message}"):
        ops.edge_gradient(**given)


def test_the_core_refuses_by_itself():
    given = asked()
    probes, spans = given["probes"], given["spans"]

    def called(**changed):
        now = given | changed
        sides = [now["probes"], now["gradients"]]
        projections, of_projections = ([raw(*own) for own in side.projections] for side in sides)
        head, of_head = (raw(*side[1:]) for side in sides)
        targets, scales, kept, losses = raw(
            *(now[name] for name in ("targets", "scales", "kept", "losses"))
        )
        _native.edge_gradient(
            projections,
            head,
            [raw(*span) for span in now["spans"]],
            targets,
            scales,
            kept,
            1.0,
            1e-5,
            losses,
            of_projections,
            of_head,
            None,
            1,
        )

    called()
    short = spans[0]._replace(stops=spans[0].stops[1:])
    with pytest.raises(ValueError, match="stops must be int64 of shape"):
        called(spans=[short, spans[1]])
    with pytest.raises(ValueError, match="spans must be non-empty and inside x of 20 rows"):
        called(spans=[spans[0]._replace(stops=spans[0].starts), spans[1]])
    with pytest.raises(ValueError, match="bias must not overlap bias"):
        called(gradients=given["gradients"]._replace(bias=probes.bias))
    with pytest.raises(ValueError, match="shift must be float32 of shape"):
        called(probes=probes._replace(shift=probes.bias))
    with pytest.raises(ValueError, match="one projection, or one for each span"):
        called(spans=[*spans, spans[0]])
