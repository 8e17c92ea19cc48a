"""Banks whose features are not on the CPU: nothing of theirs stays behind, and they learn the same.

The device is pretended (`tests.pretended`), so that these run without a GPU.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from bertft import ops
from bertft.corpora.conllu import Tree
from bertft.corpora.edges import from_arcs
from bertft.features import Mapped
from bertft.probing.assignments import Assignment
from bertft.probing.bank import Probe, Schedule, Split, fit
from bertft.probing.code_length import code_length
from bertft.probing.examples import Examples, Inputs
from bertft.probing.families import DEFAULTS, Training, train_bank
from bertft.probing.labels import Labels
from bertft.probing.linear import LinearBank
from bertft.probing.parts import Part
from bertft.probing.scores import tally
from bertft.probing.structural import Gold, Sentences, StructuralProbe, train_structural
from bertft.probing.structural_assignments import (
    StructuralAssignment,
    StructuralPart,
    StructuralTraining,
)
from bertft.probing.structural_scores import tally_structure
from bertft.probing.structural_tasks import StructuralTask
from bertft.probing.tasks import EdgeTask
from tests.pretended import DEVICE, Pretended

N, C, D = 60, 3, 6
CPU = torch.device("cpu")
HELD_OUT = 20


@pytest.fixture(autouse=True)
def pretended():
    with Pretended():
        yield


def split_on(device, *, exclusive, longest):
    """Two sets of labels for targets of two spans, on two layers."""
    draw = torch.Generator().manual_seed(0)
    layers = [torch.randn(2 * N, D, generator=draw) for _ in range(2)]
    starts = torch.randint(2 * N - longest, (N, 2), generator=draw)
    stops = starts + torch.randint(1, longest + 1, (N, 2), generator=draw)
    classes = layers[1][starts[:, 0]][:, :C].argmax(1)
    sets = [functional.one_hot(own, C).to(torch.uint8) for own in (classes, classes.flip(0))]
    unknown = torch.zeros(N, dtype=torch.int64)
    labels = Labels([own.to(device) for own in sets], exclusive, unknown.to(device))
    examples = Examples(starts, stops, torch.arange(N) // 4)
    return Split(Inputs(layers, device=device), examples.to(device), labels)


def parts(split):
    everything = torch.arange(N).to(split.inputs.device)
    return split.take(everything[HELD_OUT:]), split.take(everything[:HELD_OUT])


def here(tensor):
    return tensor.detach().cpu()


@pytest.mark.parametrize("family", list(DEFAULTS))
@pytest.mark.parametrize("mixed", [False, True])
def test_banks_follow_their_features(family, mixed):
    training = Training.of(family, epochs=3, lr=1e-2)
    probes = [Probe(seed, labels=labels) for seed in (0, 1) for labels in (0, 1)]
    found = []
    for device in (CPU, DEVICE):
        whole = split_on(device, exclusive=family != "edge", longest=1 + 2 * (family == "edge"))
        if not mixed:
            whole = whole._replace(inputs=Inputs(whole.inputs._layers[1:]))
        train, dev = parts(whole)
        bank, fitted = train_bank(training, train, dev, probes, C, mixed=mixed)
        assert {p.device for p in bank.parameters.values()} == {device}
        losses = bank.losses(dev, 7, "targets")
        assert losses.device == device
        unit = training.schedule.unit
        counts = tally(bank, dev, torch.ones(C, dtype=torch.bool), N, 8, unit).counts
        found.append((here(losses), counts, here(fitted.steps), bank.parameters))
    (losses, counts, _, parameters), (others, other_counts, _, other_parameters) = found
    torch.testing.assert_close(others, losses, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(other_counts, counts)
    for name, own in parameters.items():
        torch.testing.assert_close(here(other_parameters[name]), own, rtol=2e-3, atol=2e-4)


def test_linear_probes_are_trained_there_too():
    schedule = Schedule(20, 16, "targets", evaluate_every=2, reduce_after=1, stop_after=2, clip=1.0)
    probes = [Probe(0, lr=0.3, weight_decay=0.1), Probe(1, lr=1e-3)]
    found = []
    for device in (CPU, DEVICE):
        whole = split_on(device, exclusive=True, longest=1)
        train, dev = parts(whole._replace(inputs=Inputs(whole.inputs._layers[1:])))
        bank = LinearBank(probes, C, True, 2 * D, device)
        fitted = fit(bank, train, dev, schedule)
        assert {t.device for t in (*bank.parameters.values(), *fitted_tensors(fitted))} == {device}
        found.append([here(t) for t in fitted_tensors(fitted)])
    assert found[0][2].any()
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(other, own, rtol=1e-4, atol=1e-5)


def fitted_tensors(fitted):
    return fitted.loss, fitted.steps, fitted.stopped


def test_codes_are_measured_there():
    training = Training.of("mlp", epochs=2)
    found = []
    for device in (CPU, DEVICE):
        whole = split_on(device, exclusive=True, longest=1)
        train, dev = parts(whole)

        def trained(part, dev=dev):
            return train_bank(training, part, dev, [Probe(), Probe(1)], C, mixed=True)[0]

        bits, uniform = code_length(trained, train, C, 16, "targets")
        assert bits.device == device
        found.append((here(bits), uniform))
    (bits, uniform), (other_bits, other_uniform) = found
    assert uniform == other_uniform
    torch.testing.assert_close(other_bits, bits, rtol=1e-4, atol=1e-4)


def test_structural_banks_follow_their_features():
    lengths = torch.tensor([3, 2, 4])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    words = int(offsets[-1])
    tables = [(torch.arange(n)[:, None] - torch.arange(n)).abs() for n in lengths.tolist()]
    distances = torch.cat([table.flatten() for table in tables]).float()
    depths = torch.cat([torch.arange(n) for n in lengths.tolist()]).float()
    gold = Gold(offsets, distances, depths, torch.ones(words, dtype=torch.bool))
    layers = [torch.randn(words, D, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    probes = [
        StructuralProbe(seed, layer=layer, kind=kind, rank=2)
        for kind in ("distance", "depth")
        for layer in (0, 1)
        for seed in (0, 1)
    ]
    found = []
    for device in (CPU, DEVICE):
        sentences = Sentences.of(Inputs(layers, device=device), gold)
        schedule = Schedule(6, 2, "sentences", evaluate_every="epoch")
        bank, fitted = train_structural(probes, sentences, sentences, schedule)
        assert bank.parameters["projection"].device == device
        found.append((here(fitted.loss), tally_structure(bank, sentences, 2)))
    (losses, counts), (others, other_counts) = found
    torch.testing.assert_close(others, losses, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other_counts, counts, atol=1e-5)


def tree(words, heads):
    labels = tuple("dep" if head else "root" for head in heads)
    return Tree(tuple(words.split()), ("X",) * len(heads), tuple(heads), labels, "", 1)


TREES = [tree("the cat sat", (2, 3, 0)), tree("a dog ran on the hill", (2, 3, 0, 6, 6, 3))]


def shards(rows, layers, seed):
    """Features in memory, of which the second layer lies in two pieces."""
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randn(rows, D, generator=draw) for _ in range(layers)]
    return [made[0], *(Mapped([layer[:2], layer[2:]]) for layer in made[1:])]


def test_assignments_take_features_to_their_device(tokenizer):
    task = EdgeTask.of("arcs", from_arcs(4 * TREES), from_arcs(2 * TREES))
    train, dev = (Part.of(task, own, tokenizer, None, True) for own in (task.train, task.dev))
    layers = [shards(part.rows.n, 2, seed) for seed, part in enumerate((train, dev))]
    found = []
    for device in (CPU, DEVICE):
        training = Training.of("mlp", epochs=1)
        own = Assignment(task, training, train, dev, [0, 1], True, True, ["m"], True, False, device)
        rows, _ = own.probe_layer("1", *(of[1] for of in layers))
        found.append(pd.DataFrame(rows + own.probe_mixtures(["mix", "cumulative-0"], *layers)[0]))
    pd.testing.assert_frame_equal(*found, rtol=1e-4)
    metrics = ["micro_f1", "accuracy", "selectivity", "code_length_bits", "compression"]
    assert list(found[0]["metric"].unique()) == [*metrics, "center_of_gravity"]


def test_assignments_of_trees_do_too(tokenizer):
    task = StructuralTask.of(2 * TREES, TREES)
    train, dev = (StructuralPart.of(task, own, tokenizer, None) for own in (task.train, task.dev))
    layers = [shards(part.rows.n, 2, seed) for seed, part in enumerate((train, dev))]
    found = []
    for device in (CPU, DEVICE):
        training = StructuralTraining.of(2, epochs=2)
        own = StructuralAssignment(task, training, train, dev, [0], ["m"], 0, [], device)
        found.append(own.probe_layers({"0": 0, "1": 1}, *layers))
    pd.testing.assert_frame_equal(*(pd.DataFrame(of.rows) for of in found), rtol=1e-4)
    assert found[0].picture["words"] == list(task.dev[0].words)
    assert found[0].picture == found[1].picture


def test_what_stays_behind_is_told():
    whole = split_on(DEVICE, exclusive=True, longest=1)
    mine = torch.arange(4)
    with pytest.raises(RuntimeError, match="on lazy:0 and on the CPU"):
        whole.inputs.rows(mine)
    behind = whole._replace(labels=split_on(CPU, exclusive=True, longest=1).labels)
    train, dev = (behind._replace(examples=part.examples) for part in parts(whole))
    with pytest.raises((RuntimeError, ValueError), match=r"on the CPU|on one device"):
        train_bank(Training.of("mlp", epochs=1), train, dev, [Probe()], C, mixed=True)


@pytest.mark.parametrize("softmax", [False, True], ids=["sigmoid", "softmax"])
def test_the_definition_of_linear_gradients_runs_where_its_tensors_are(softmax):
    x, weights = torch.randn(9, D), torch.randn(2 * C, D)
    targets = torch.randint(C, (2, 9))
    if not softmax:
        targets = torch.randint(2, (2 * C, 9), dtype=torch.uint8)
    given = (x, weights, None, targets, torch.ones(2), torch.zeros(2).double(), weights.clone())
    found = [tuple(t if t is None else t.to(place) for t in given) for place in (CPU, DEVICE)]
    for arguments in found:
        assert ops.linear_gradient(*arguments, None, backend="reference")
    for own, other in zip(*(arguments[-2:] for arguments in found), strict=True):
        assert torch.equal(here(own), here(other))
