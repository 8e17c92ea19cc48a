"""Banks of probes beside probes trained one by one, as many steps or to as low a held-out loss.

One by one is what a user writes: a module and torch's Adam, on tensors in memory, no DataLoader.
One of them is timed and counted as often as there are; scikit-learn fits one layer and task.
"""

import time
from functools import cache, partial

import pytest
import torch
from conftest import aim, shared, tell
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from bertft.checkpoints import Checkpoint
from bertft.corpora.conllu import read_trees
from bertft.corpora.edges import Record, Target
from bertft.ops.native import kernels_only
from bertft.probing.bank import Probe, Schedule, Split, fit
from bertft.probing.edge import EdgeBank
from bertft.probing.examples import Examples, Inputs
from bertft.probing.labels import Labels
from bertft.probing.linear import LinearBank
from bertft.probing.logistic import solve
from bertft.probing.parts import Part
from bertft.probing.tasks import EdgeTask
from bertft.recording import record
from bertft.traces import inference

LAYERS, TASKS, SEEDS = 13, 5, 5
N, D, BATCH = 50_000, 768, 256
TIMES = {}


def linear_split(x, classes, c):
    rows = torch.arange(len(x))[:, None]
    sets = [functional.one_hot(own, c).byte() for own in classes]
    examples = Examples(rows, rows + 1, torch.arange(len(x)) // 16)
    return Split(Inputs([x]), examples, Labels(sets, exclusive=True))


def timed(call, *arguments):
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


def epoch_alone(x, y, module, adam, order):
    for index in torch.randperm(len(x), generator=order).split(BATCH):
        adam.zero_grad()
        functional.cross_entropy(module(x[index]), y[index]).backward()
        adam.step()


@pytest.mark.parametrize("who", ["bank", "one by one"])
@pytest.mark.parametrize("c", [2, 17, 50])
def test_an_epoch_of_linear_probes(benchmark, c, who):
    count = LAYERS * TASKS * SEEDS
    benchmark.group = (
        f"an epoch of {LAYERS} layers x {TASKS} tasks x {SEEDS} seeds of linear probes, {c} "
        f"classes, {N:,} words, d = {D}, batch {BATCH}, Adam"
    )
    if c not in TIMES:
        TIMES[c] = race_of_epochs(c)
    if who == "bank":
        # Two products of 2 n d (C - 1) for each probe: softmax sees differences of logits only.
        tell(benchmark, TIMES[c][who], flops=4.0 * N * D * (c - 1) * count)
        return
    if c == 17:
        aim(
            benchmark,
            least=8,
            why="The multiply-adds alone, at the machine's peak, take half of the bank's time.",
        )
    tell(benchmark, TIMES[c][who])


def race_of_epochs(c, rounds=3):
    """Seconds of an epoch of all probes; a layer and a probe are run, and counted as often."""
    torch.manual_seed(0)
    x = torch.randn(N, D)
    classes = [torch.randint(c, (N,)) for _ in range(TASKS)]
    split = linear_split(x, classes, c)
    probes = [Probe(seed, 1e-3, labels=task) for task in range(TASKS) for seed in range(SEEDS)]
    schedule = Schedule(1, BATCH, "targets", evaluate_every=10**9)
    few = split.take(torch.arange(BATCH))
    bank = LinearBank(probes, c, True, D)
    modules = []
    for k in (0, 24):
        module = nn.Linear(D, c)
        module.weight.data = bank.parameters["weight"][k].clone()
        module.bias.data = bank.parameters["bias"][k].clone()
        adam = torch.optim.Adam(module.parameters(), lr=1e-3)
        epoch_alone(x, classes[probes[k].labels], module, adam, torch.Generator().manual_seed(0))
        modules.append(module)
    fit(bank, split, few, schedule)
    for k, module in zip((0, 24), modules, strict=True):
        torch.testing.assert_close(
            bank.parameters["weight"][k], module.weight.data, rtol=1e-3, atol=1e-4
        )
    times = {"bank": [], "one by one": []}
    for _ in range(rounds):
        bank = LinearBank(probes, c, True, D)
        time.sleep(0.12)
        with kernels_only():
            seconds, _ = timed(fit, bank, split, few, schedule)
        times["bank"].append(LAYERS * seconds)
        module = nn.Linear(D, c)
        adam = torch.optim.Adam(module.parameters(), lr=1e-3)
        time.sleep(0.12)
        order = torch.Generator().manual_seed(0)
        seconds, _ = timed(epoch_alone, x, classes[0], module, adam, order)
        times["one by one"].append(LAYERS * TASKS * SEEDS * seconds)
    return times


@cache
def words_of_ewt():
    """Features of two layers of MiniLM side by side, as wide as BERT-base's, and tags to predict.

    A word's own part of speech, and those of its neighbors and its head: five tasks, 17 classes.
    """
    folder = shared() / "data" / "ud_english_ewt"
    trees = read_trees(folder / "en_ewt-ud-train.conllu")[:4000]
    names = sorted({tag for tree in trees for tag in tree.tags})
    number = {tag: c for c, tag in enumerate(names)}
    tasks = [[] for _ in range(TASKS)]
    for tree in trees:
        tags = [number[tag] for tag in tree.tags]
        size = len(tags)
        for i, head in enumerate(tree.heads):
            beside = (
                i,
                max(i - 1, 0),
                min(i + 1, size - 1),
                max(i - 2, 0),
                head - 1 if head else i,
            )
            for own, place in zip(tasks, beside, strict=True):
                own.append(tags[place])
    records = [
        Record(tree.words, tuple(Target(((i, i + 1),), ("x",)) for i in range(len(tree.words))))
        for tree in trees
    ]
    checkpoint = Checkpoint.open(str(shared() / "models" / "minilm"))
    task = EdgeTask.of("words", [*records[:-1], relabeled(records[-1])], records[-1:])
    part = Part.of(task, task.train, checkpoint.tokenizer, 512, True)
    with inference(checkpoint.encoder, device=None):
        features = record({"minilm": checkpoint}, part.rows, layers={"minilm": [2, 4]})
    x = torch.cat([features.read("minilm", layer) for layer in (2, 4)], 1)
    x = x[part.examples.starts[:, 0]]
    kept = part.targets.kept
    classes = [torch.tensor(task)[kept] for task in tasks]
    return x, classes, len(names)


def relabeled(last):
    return Record(last.words, tuple(Target(target.spans, ("y",)) for target in last.targets))


SOLVED = {"solved to 1e-3": 1e-3, "solved to 1e-5": 1e-5}


@pytest.mark.parametrize("who", [*SOLVED, "Adam, one by one", "scikit-learn, one by one"])
def test_linear_probes_to_equal_loss(benchmark, who):
    benchmark.group = (
        f"{LAYERS} layers x {TASKS} tasks x {SEEDS} seeds of linear probes to the held-out loss of "
        f"Adam at its best, 17 classes, {N:,} words of EWT, d = {D}"
    )
    if "loss" not in TIMES:
        TIMES["loss"] = race_to_a_loss()
    benchmark.extra_info.update(TIMES["loss"][1])
    if who == "Adam, one by one":
        aim(benchmark, least=20)
    if who == "scikit-learn, one by one":
        aim(benchmark, least=1)
    tell(benchmark, TIMES["loss"][0][who])


def race_to_a_loss(rounds=2):
    """Seconds of all probes, and the held-out loss of each way as a mean over the tasks.

    All tasks of one layer are run, scikit-learn once. Adam is counted for each seed and stops at
    its best epoch; the optimum is the same for all seeds.
    """
    x, classes, c = words_of_ewt()
    train, dev = slice(0, N), slice(N, None)
    split = linear_split(x[train], [own[train] for own in classes], c)
    held_out = linear_split(x[dev], [own[dev] for own in classes], c)
    probes = [Probe(seed, labels=task) for task in range(TASKS) for seed in range(SEEDS)]
    times = {who: [] for who in (*SOLVED, "Adam, one by one")}
    losses = {}
    for _ in range(rounds):
        found = [adam_to_its_best(x[train], y[train], x[dev], y[dev], c) for y in classes]
        times["Adam, one by one"].append(LAYERS * SEEDS * sum(seconds for seconds, _ in found))
        losses["Adam, one by one"] = [loss for _, loss in found]
        for who, tolerance in SOLVED.items():
            bank = LinearBank(probes, c, True, D)
            time.sleep(0.12)
            with kernels_only():
                seconds, optimum = timed(partial(solve, bank, split, 50.0, tolerance=tolerance))
            times[who].append(LAYERS * seconds)
            losses[who] = bank.losses(held_out, 4096, "targets")[::SEEDS].tolist()
    oracles = [LogisticRegression(C=1 / (optimum.penalty * N), max_iter=1000) for _ in classes]
    spent = [
        timed(oracle.fit, x[train].numpy(), y[train].numpy())[0]
        for oracle, y in zip(oracles, classes, strict=True)
    ]
    times["scikit-learn, one by one"] = [LAYERS * sum(spent)] * rounds
    losses["scikit-learn, one by one"] = [
        float(functional.cross_entropy(torch.from_numpy(oracle.decision_function(x[dev])), y[dev]))
        for oracle, y in zip(oracles, classes, strict=True)
    ]
    assert losses["solved to 1e-5"] == pytest.approx(losses["scikit-learn, one by one"], abs=2e-3)
    means = {who: sum(own) / TASKS for who, own in losses.items()}
    for who in SOLVED:
        assert means[who] <= means["Adam, one by one"]
    return times, {f"held-out loss, {who}": round(loss, 4) for who, loss in means.items()}


def adam_to_its_best(x, y, x_dev, y_dev, c):
    """Seconds of training until the held-out loss is lowest, less evaluations, and that loss."""
    module = nn.Linear(D, c)
    adam = torch.optim.Adam(module.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(0)
    best, spent, at_best, idle = float("inf"), 0.0, 0.0, 0
    while idle < 2:
        seconds, _ = timed(epoch_alone, x, y, module, adam, order)
        spent += seconds
        with torch.no_grad():
            loss = float(functional.cross_entropy(module(x_dev), y_dev))
        idle += 1
        if loss < best:
            best, at_best, idle = loss, spent, 0
    return at_best, best


EDGES = ("ner_wnut17", "relations_semeval2010", "srl_ewt")


class EdgeProbe(nn.Module):
    """An edge probe over padded spans."""

    def __init__(self, d, spans, c):
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(d, 256) for _ in range(spans))
        self.attentions = nn.ModuleList(nn.Linear(256, 1) for _ in range(spans))
        self.hidden = nn.Linear(256 * spans, 256)
        self.norm = nn.LayerNorm(256)
        self.out = nn.Linear(256, c)

    def forward(self, spans, masks):
        pooled = []
        layers = zip(self.projections, self.attentions, spans, masks, strict=True)
        for project, attend, x, mask in layers:
            z = project(x)
            weights = attend(z)[..., 0].masked_fill(~mask, -1e30).softmax(1)
            pooled.append((weights[..., None] * z).sum(1))
        hidden = self.norm(torch.tanh(self.hidden(torch.cat(pooled, 1))))
        return self.out(functional.dropout(hidden, 0.3, self.training))


@cache
def edge_part(name):
    checkpoint = Checkpoint.open(str(shared() / "models" / "minilm"))
    task = EdgeTask.read(name, shared() / "data" / "edges" / name, limit=800)
    part = Part.of(task, task.train, checkpoint.tokenizer, 512, False)
    with inference(checkpoint.encoder, device=None):
        features = record({"minilm": checkpoint}, part.rows)
    layers = [features.read("minilm", layer) for layer in range(7)]
    return checkpoint, task, part, layers


def padded_spans(examples, index, x):
    spans, masks = [], []
    for starts, stops in zip(examples.starts[index].T, examples.stops[index].T, strict=True):
        places = starts[:, None] + torch.arange(int((stops - starts).max()))
        masks.append(places < stops[:, None])
        spans.append(x[places.clamp(max=len(x) - 1)])
    return spans, masks


def edge_epoch_alone(part, x, module, adam, order):
    for index in part.examples.batches(32, "sentences", order):
        loss = functional.binary_cross_entropy_with_logits(
            module(*padded_spans(part.examples, index, x)), part.labels[index].float()
        )
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        adam.step()


def encoder_epoch(checkpoint, part):
    """The frozen encoder over the sentences of an epoch, in batches of 32 as they come."""
    texts = part.rows.texts
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        for first in range(0, len(texts), 32):
            own = [texts[i] for i in order[first : first + 32]]
            length = max(len(text.ids) for text in own)
            ids, mask = torch.zeros(len(own), length).long(), torch.zeros(len(own), length).long()
            for i, text in enumerate(own):
                ids[i, : len(text.ids)] = torch.from_numpy(text.ids).long()
                mask[i, : len(text.ids)] = 1
            checkpoint.encoder(input_ids=ids, attention_mask=mask)


WAYS = ("bank", "one by one from features", "one by one, the encoder in every step")


@pytest.mark.parametrize("who", WAYS)
def test_an_epoch_of_edge_probes(benchmark, who):
    benchmark.group = (
        f"an epoch of 7 layers x {len(EDGES)} tasks x 3 seeds of edge probes, MiniLM, 800 "
        "sentences a task"
    )
    if "edges" not in TIMES:
        TIMES["edges"] = race_of_edges()
    if who == "one by one from features":
        aim(benchmark, least=3)
    if who == "one by one, the encoder in every step":
        aim(benchmark, least=15)
    tell(benchmark, TIMES["edges"][who])


def race_of_edges(rounds=3):
    times = {who: [0.0] * rounds for who in WAYS}
    for name in EDGES:
        checkpoint, task, part, layers = edge_part(name)
        c, spans = len(task.labels), task.spans
        schedule = Schedule(1, 32, "sentences", evaluate_every=10**9, clip=5.0, amsgrad=True)
        labels = Labels([part.labels], False)
        few = Split(Inputs(layers[:1]), part.examples, labels).take(torch.arange(32))
        for turn in range(rounds):
            time.sleep(0.12)
            for layer in layers:
                split = Split(Inputs([layer]), part.examples, labels)
                bank = EdgeBank([Probe(s) for s in range(3)], c, False, split.inputs, spans, False)
                with kernels_only():
                    times["bank"][turn] += timed(fit, bank, split, few, schedule)[0]
            module = EdgeProbe(layers[0].shape[1], spans, c)
            adam = torch.optim.Adam(module.parameters(), lr=1e-4, amsgrad=True)
            order = torch.Generator().manual_seed(0)
            time.sleep(0.12)
            alone = timed(edge_epoch_alone, part, layers[3], module, adam, order)[0]
            encoder = timed(encoder_epoch, checkpoint, part)[0]
            times["one by one from features"][turn] += 21 * alone
            times["one by one, the encoder in every step"][turn] += 21 * (alone + encoder)
    return times
