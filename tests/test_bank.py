"""Probes trained together: the same as alone, and the same as by independent code."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bertft.ops import composed
from bertft.ops.native import kernels_only, threads_now
from bertft.probing import edge
from bertft.probing.bank import Probe, Schedule, Split, fit
from bertft.probing.edge import SCALE, EdgeBank, _probes_of
from bertft.probing.examples import Examples, Inputs
from bertft.probing.families import DEFAULTS, Training, train_bank
from bertft.probing.labels import Labels
from bertft.probing.linear import LinearBank
from bertft.probing.neural import MlpBank

C, D, LAYERS = 5, 12, 3


CPU = torch.device("cpu")


def one_hot(classes):
    return functional.one_hot(classes, C).to(torch.uint8)


def planted(n=400, spans=2, longest=3, pooled=False, seed=0):
    """Targets whose class is in the mean of their spans' rows of layer 1, and the layers."""
    draw = torch.Generator().manual_seed(seed)
    layers = [torch.randn(3 * n, D, generator=draw) for _ in range(LAYERS)]
    starts = torch.randint(3 * n - longest, (n, spans), generator=draw).sort(0)[0]
    longest = 1 if pooled else longest
    stops = starts + torch.randint(1, longest + 1, (n, spans), generator=draw)
    means = torch.stack(
        [
            torch.cat([layers[1][a:b].mean(0) for a, b in zip(x, y, strict=True)])
            for x, y in zip(starts, stops, strict=True)
        ]
    )
    classes = (means @ torch.randn(spans * D, C, generator=draw)).argmax(1)
    return layers, Examples(starts, stops, torch.arange(n) // 4), classes


def splits(family, mixed, n=400, spans=2):
    layers, examples, classes = planted(n, spans, pooled=family != "edge")
    inputs = Inputs(layers if mixed else layers[1:2])
    sets = [one_hot(classes), one_hot(classes.flip(0))]
    whole = Split(inputs, examples, Labels(sets, exclusive=family != "edge"))
    return whole.take(torch.arange(n * 3 // 4)), whole.take(torch.arange(n * 3 // 4, n))


KINDS = [(family, mixed) for family in DEFAULTS for mixed in (False, True)]


@pytest.mark.parametrize(("family", "mixed"), KINDS)
@pytest.mark.parametrize("spans", [1, 2])
def test_a_probe_is_the_same_alone_and_in_a_bank(family, mixed, spans):
    train, dev = splits(family, mixed, spans=spans)
    training = Training.of(family, epochs=4, lr=3e-3)
    probes = [Probe(seed, labels=labels) for labels in (0, 1) for seed in range(3)]
    bank, _ = train_bank(training, train, dev, probes, C, mixed=mixed)
    for k in (1, 3):
        alone, _ = train_bank(training, train, dev, probes[k : k + 1], C, mixed=mixed)
        for name, own in alone.parameters.items():
            torch.testing.assert_close(own[0], bank.parameters[name][k], rtol=1e-3, atol=1e-4)
    assert not torch.equal(*next(iter(bank.parameters.values()))[[0, 3]])


@pytest.mark.parametrize("family", ["mlp", "edge"])
def test_probes_stop_alone_and_keep_their_best_weights(family):
    train, dev = splits(family, mixed=False)
    schedule = Schedule(8, 32, "targets", evaluate_every=3, reduce_after=2, stop_after=4)
    rates = (2e-2, 3e-4, 3e-3)
    kind = EdgeBank if family == "edge" else MlpBank

    def trained(lrs):
        bank = kind([Probe(0, lr=lr) for lr in lrs], C, family != "edge", train.inputs, 2, False)
        return bank, fit(bank, train, dev, schedule)

    bank, found = trained(rates)
    assert len(set(found.steps.tolist())) > 1
    assert found.stopped.any()
    assert not found.stopped.all()
    torch.testing.assert_close(bank.losses(dev, 50, "targets"), found.loss, rtol=1e-5, atol=1e-7)
    for k, lr in enumerate(rates):
        _, alone = trained([lr])
        assert alone.steps[0] == found.steps[k]
        torch.testing.assert_close(alone.loss[0], found.loss[k], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("family", "rate"), [("linear", 0.2), ("mlp", 0.02), ("edge", 0.02)])
def test_mixtures_that_stop_one_after_another_are_whole_afterwards(family, rate):
    train, dev = splits(family, mixed=True)
    schedule = Schedule(40, 32, "targets", evaluate_every=3, reduce_after=2, stop_after=2)
    probes = [Probe(0, mixes=2), Probe(0, mixes=1), Probe(0)]
    training = replace(Training.of(family, lr=rate), schedule=schedule)

    bank, found = train_bank(training, train, dev, probes, C, mixed=True)
    assert found.stopped.all()
    assert len(set(found.steps.tolist())) > 1
    torch.testing.assert_close(bank.losses(dev, 50, "targets"), found.loss, rtol=1e-5, atol=1e-7)
    assert (bank.mix_weights() > 0).sum(1).tolist() == [2, 1, LAYERS]
    for k, probe in enumerate(probes):
        alone, _ = train_bank(training, train, dev, [probe], C, mixed=True)
        torch.testing.assert_close(
            bank.mix_weights()[k], alone.mix_weights()[0], rtol=1e-3, atol=1e-4
        )


def test_linear_probes_train_as_a_module_with_adamw():
    train, dev = splits("linear", mixed=False)
    schedule = Schedule(3, 64, "targets", evaluate_every=10_000)
    bank = LinearBank([Probe(3, lr=1e-2, weight_decay=0.1)], C, True, 2 * D)
    module = nn.Linear(2 * D, C)
    module.weight.data, module.bias.data = (
        bank.parameters[n][0].clone() for n in ("weight", "bias")
    )
    fit(bank, train, dev, schedule)

    groups = [{"params": [module.weight], "weight_decay": 0.1}, {"params": [module.bias]}]
    adam = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0)
    order = torch.Generator().manual_seed(schedule.order_seed)
    x = train.inputs.pooled(train.examples, torch.arange(len(train.examples)))[0]
    y = train.labels.of([Probe()], torch.arange(len(x)))[0].argmax(0)
    for _ in range(3):
        for index in train.examples.batches(64, "targets", order):
            adam.zero_grad()
            functional.cross_entropy(module(x[index]), y[index]).backward()
            adam.step()
    torch.testing.assert_close(
        module.weight.data, bank.parameters["weight"][0], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(module.bias.data, bank.parameters["bias"][0], rtol=1e-4, atol=1e-5)


class PlainEdgeProbe(nn.Module):
    """One edge probe, one target at a time, as the paper says it."""

    def __init__(self, parameters, spans):
        super().__init__()
        self.p = nn.ParameterDict({n: nn.Parameter(p.clone()) for n, p in parameters.items()})
        self.spans = spans

    def forward(self, layers, starts, stops):
        p = self.p
        if "mix" in p:
            x = p["gamma"] * (torch.softmax(p["mix"], 0)[:, None, None] * torch.stack(layers)).sum(
                0
            )
        else:
            [x] = layers
        pooled = []
        for s in range(self.spans):
            z = x[starts[s] : stops[s]] @ p[f"projection{s}"] + p[f"projection{s}_bias"]
            weights = torch.softmax(z @ p[f"attention{s}"], 0)
            pooled.append(weights @ z)
        hidden = torch.tanh(p["hidden"].T @ torch.cat(pooled) + p["hidden_bias"])
        hidden = functional.layer_norm(hidden, hidden.shape, p["gain"], p["shift"])
        return p["weight"].T @ hidden + p["bias"]


@pytest.mark.parametrize("mixed", [False, True])
def test_edge_probes_compute_what_the_paper_says(mixed, monkeypatch):
    train, _ = splits("edge", mixed, n=40)
    monkeypatch.setattr(EdgeBank, "_kept", lambda self, count, device: None)
    monkeypatch.setattr(edge, "SCALE", 1.0)
    bank = EdgeBank([Probe(seed) for seed in range(2)], C, False, train.inputs, 2, mixed)
    # Away from 0 and 1, so that no parameter can be left out.
    for p in bank.parameters.values():
        p += 0.3 * torch.randn_like(p)
    index = torch.arange(7, 23)
    layers = train.inputs._layers
    logits = bank.logits(train, index)
    gradients = bank.gradients(train, index)
    y = train.labels.of([Probe()], index)[0].T.float()
    for k in range(2):
        plain = PlainEdgeProbe({n: p[k] for n, p in bank.parameters.items()}, 2)
        z = torch.stack(
            [plain(layers, train.examples.starts[i], train.examples.stops[i]) for i in index]
        )
        torch.testing.assert_close(logits[k].T, z.detach(), rtol=1e-4, atol=1e-5)
        functional.binary_cross_entropy_with_logits(z, y).backward()
        for name, p in plain.p.items():
            # Sums of hundreds of float32 terms that cancel.
            atol = 1e-5 * float(p.grad.abs().max())
            torch.testing.assert_close(gradients[name][k], p.grad, rtol=1e-3, atol=atol)


def test_dropout_follows_its_probe():
    train, _ = splits("edge", mixed=False)
    bank = EdgeBank([Probe(seed) for seed in range(3)], C, False, train.inputs, 2, False)
    other = copy.deepcopy(bank)
    other.select(torch.tensor([2]))
    drawn = bank._kept(200, CPU)
    assert drawn.shape == (3, 200, 256)
    assert torch.equal(drawn[2:], other._kept(200, CPU))
    assert not torch.equal(drawn[0], drawn[1])
    assert set(drawn.unique().tolist()) == {0, 1}
    assert abs(float(drawn.float().mean()) - 0.7) < 5 * np.sqrt(0.21 / drawn.numel())


def test_dropout_keeps_the_mean_of_units():
    train, _ = splits("edge", mixed=False)
    bank = EdgeBank([Probe(0)], C, False, train.inputs, 2, False)
    index = torch.arange(20)
    whole = bank.logits(train, index)
    probes, (_, spans) = _probes_of(bank.parameters), bank._read(train, index)

    def dropped():
        out = torch.empty_like(whole)
        composed.edge_logits(probes, spans, bank._kept(20, CPU), SCALE, 1e-5, out)
        return out

    draws = torch.stack([dropped() for _ in range(400)])
    mean, spread = draws.mean(0), draws.std(0) / 20
    assert ((mean - whole).abs() < 6 * spread).all()
    assert not torch.equal(draws[0], draws[1])


def test_a_mixture_finds_the_layer_of_the_task():
    train, dev = splits("linear", mixed=True, n=2000)
    training = Training.of("linear", epochs=60, lr=3e-2)
    bank, _ = train_bank(training, train, dev, [Probe(), Probe(mixes=1)], C, mixed=True)
    shares = bank.mix_weights()
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    assert shares[0].argmax() == 1
    assert shares[0, 1] > 0.6
    assert shares[1].tolist() == [1, 0, 0]


def test_targets_without_a_known_label_teach_nothing():
    train, _ = splits("linear", mixed=False)
    index = torch.arange(len(train.examples))
    known = index % 3 > 0
    labels = train.labels.of([Probe()], index)[0].T
    partly = Split(train.inputs, train.examples, Labels([labels * known[:, None]], True))
    bank = LinearBank([Probe()], C, True, 2 * D)
    own = bank.gradients(partly, index)
    of_known = bank.gradients(train, index[known])
    for name in own:
        torch.testing.assert_close(own[name], of_known[name], rtol=1e-4, atol=1e-6)


def test_batches_hold_every_target_once():
    _, examples, _ = planted(101)
    for unit, size in (("targets", 7), ("sentences", 3)):
        order = torch.Generator().manual_seed(0)
        for draw in (None, order):
            parts = list(examples.batches(size, unit, draw))
            assert torch.cat(parts).sort()[0].tolist() == list(range(101))
            if unit == "sentences":
                assert all(len(torch.unique(examples.sentence[part])) <= size for part in parts)
            else:
                assert {len(part) for part in parts[:-1]} == {size}


def test_a_loss_that_is_not_finite_is_an_error():
    _, dev = splits("linear", mixed=False)
    bank = LinearBank([Probe()], C, True, 2 * D)
    bank.parameters["weight"][0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"losses must be finite, got"):
        bank.losses(dev, 10, "targets")


def test_dev_without_a_known_label_is_an_error():
    _, dev = splits("linear", mixed=False)
    n = len(dev.examples)
    nothing = dev._replace(labels=Labels([torch.zeros(n, C, dtype=torch.uint8)], True))
    with pytest.raises(ValueError, match=r"a label that training has, got \[0\]"):
        LinearBank([Probe()], C, True, 2 * D).losses(nothing, 10, "targets")


@pytest.mark.parametrize("kind", [EdgeBank, MlpBank])
def test_only_mixtures_have_several_layers(kind):
    with pytest.raises(
        ValueError, match=rf"\[{kind.__name__}\] inputs must have one layer, .* got 2;"
    ):
        kind([Probe()], C, False, Inputs([torch.zeros(3, D)] * 2), 2, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "conv"}, "probe must be one of linear, mlp, edge, got 'conv'"),
        ({"family": "edge", "epochs": 0}, "epochs and lr must be positive, got 0 and None"),
        ({"family": "edge", "lr": -1.0}, "epochs and lr must be positive, got None and -1.0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Training.of(**settings)


def test_threads_are_left_to_the_kernels_and_given_back():
    before = torch.get_num_threads()

    def interrupted():
        with kernels_only():
            assert torch.get_num_threads() == 1
            with kernels_only():
                assert threads_now() == before
            assert threads_now() == before
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert torch.get_num_threads() == threads_now() == before
