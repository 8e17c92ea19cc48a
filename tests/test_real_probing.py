"""MiniLM and its parser under probes: a minute of them, and the table of `docs/probing.md`."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from bertft.checkpoints import Checkpoint
from bertft.corpora.conllu import read_trees
from bertft.corpora.edges import from_arcs, from_tags
from bertft.probes import probe
from bertft.probing.bank import Probe, Split
from bertft.probing.examples import Inputs
from bertft.probing.families import Training, train_bank
from bertft.probing.labels import Labels
from bertft.probing.parts import Part
from bertft.probing.structural_tasks import StructuralTask
from bertft.probing.tasks import EdgeTask
from bertft.recording import record
from bertft.traces import inference

EDGES = ("ner_wnut17", "relations_semeval2010", "srl_ewt", "spr_uds", "coref_gap")
BASE, PARSER, RANDOMIZED = "minilm", "minilm-dep", "randomized"


@pytest.fixture(scope="module")
def models(shared):
    return [shared / "models" / name for name in (BASE, PARSER)]


@pytest.fixture(scope="module")
def ewt(shared):
    return shared / "data" / "ud_english_ewt"


@pytest.fixture(scope="module")
def trees(ewt):
    """Some sentences to train on and some to score on."""
    parts = (("train", slice(0, 8000, 40)), ("dev", slice(0, 2000, 20)))
    return [read_trees(ewt / f"en_ewt-ud-{part}.conllu")[some] for part, some in parts]


def scores(done, metric="micro_f1"):
    """Means over seeds by task, name of the model and layer."""
    rows = done.table[done.table["metric"] == metric]
    names = rows["model"].map(lambda name: name.rpartition("/")[2])
    return rows.assign(model=names).groupby(["task", "model", "layer"])["value"].mean()


@pytest.mark.real
def test_a_minute_of_parts_of_speech(models, trees):
    pos = EdgeTask.of("pos", *map(from_tags, trees))
    controls = ["randomized", "control-task"]
    done = probe(models, {"pos": pos}, layers="lexical,6,mix", controls=controls)
    found, selectivity = scores(done)["pos"], scores(done, "selectivity")["pos"]
    for name in (BASE, PARSER):
        assert found[name, "lexical"] + 0.03 < found[name, "mix"]
        assert (found[RANDOMIZED] + 0.1 < found[name, "lexical"]).all()
        assert (selectivity[name] > 0.05).all()
    assert found[PARSER, "6"] > found[BASE, "6"] + 0.05


@pytest.mark.real
def test_a_minute_of_arcs(models, trees):
    arcs = EdgeTask.of("arcs", *map(from_arcs, trees))
    done = probe(models, {"arcs": arcs}, layers="lexical,6,mix", probe="edge", epochs=15, lr=1e-3)
    found = scores(done)["arcs"]
    for name in (BASE, PARSER):
        assert found[name, "lexical"] < found[name, "mix"]
    assert found[PARSER, "mix"] > found[BASE, "mix"] + 0.05
    assert found[PARSER, "6"] > found[BASE, "6"] + 0.05


@pytest.mark.real
def test_a_minute_of_entities(models, shared):
    done = probe(
        models[0],
        {"ner": shared / "data" / "edges" / "ner_wnut17"},
        layers="lexical,mix",
        probe="edge",
        controls=["randomized"],
        limit=500,
        epochs=10,
        lr=1e-3,
    )
    found = scores(done)["ner"]
    assert found[BASE, "lexical"] + 0.03 < found[BASE, "mix"]
    assert found[RANDOMIZED, "mix"] + 0.2 < found[BASE, "mix"]


@pytest.mark.real
def test_linear_probes_have_the_loss_of_scikit_learn(models, trees):
    from sklearn.linear_model import LogisticRegression

    side = Checkpoint.open(models[0])
    task = EdgeTask.of("pos", *(from_tags(part[::2]) for part in trees))
    splits, features = [], []
    with inference(side.encoder):
        for records in (task.train, task.dev):
            part = Part.of(task, records, side.tokenizer, side.max_length, pooled=True)
            rows = record({"m": side}, part.rows, layers={"m": [4]}).rows("m", 4)
            splits.append(Split(Inputs([rows]), part.examples, Labels([part.labels], True)))
            known = part.labels.bool().any(1)
            x = rows.index_select(0, part.examples.starts[:, 0])[known].double().numpy()
            features.append((x, part.labels.argmax(1)[known].numpy()))
    (x, y), (x_dev, y_dev) = features
    bank, found = train_bank(Training.of("linear"), *splits, [Probe()], classes=len(task.labels))
    loss = float(bank.losses(splits[1], 256, "targets"))
    oracle = LogisticRegression(C=1 / (found.penalty * len(y)), tol=1e-7, max_iter=3000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Its solver, too, ends sooner on features without an offset, which changes no optimum.
        oracle.fit(x - x.mean(0), y)
    assert set(oracle.classes_) == set(range(len(task.labels)))
    told = oracle.predict_log_proba(x_dev - x.mean(0))[np.arange(len(y_dev)), y_dev]
    assert loss == pytest.approx(-told.mean(), abs=1e-3)


@pytest.mark.real_long
def test_the_table_of_tasks(models, ewt, shared, tmp_path):
    """The runs of `docs/probing.md`."""
    options = {"layers": "all,mix,lexical", "probe": "edge", "lr": 1e-3, "epochs": 8, "seeds": 3}
    treebank = {"pos": ewt, "arcs": ewt}
    edges = {name.partition("_")[0]: shared / "data" / "edges" / name for name in EDGES}
    torch.set_num_threads(2)
    runs = [
        probe(models, tasks, controls=["randomized"], limit=limit, **options)
        for tasks, limit in ((treebank, 2000), (edges, 4000))
    ]
    for name, done in zip(("treebank", "edges"), runs, strict=True):
        done.save(tmp_path / name)
    found = pd.concat([scores(done) for done in runs])
    for task in (*treebank, *edges):
        for name in (BASE, PARSER):
            assert found[task, name, "lexical"] < found[task, name, "mix"], (task, name)
            assert found[task, RANDOMIZED, "mix"] < found[task, name, "mix"], (task, name)
    assert found["arcs", PARSER, "mix"] >= found["arcs", BASE, "mix"]
    changes = runs[0].differences.query("task == 'arcs' and layer == '6' and metric == 'micro_f1'")
    assert (changes[changes["model"].str.endswith(PARSER)]["low"] > 0).all()


@pytest.mark.real
def test_a_minute_of_structure(models, trees):
    task = StructuralTask.of(*trees)
    done = probe(models, {"structural": task}, layers="lexical,3,6", controls=["randomized"])
    uuas, roots = (scores(done, metric)["structural"] for metric in ("uuas", "root_accuracy"))
    assert uuas[BASE, "3"] > uuas[BASE, "lexical"] + 0.03
    assert uuas[BASE, "3"] > max(uuas[BASE, "chain"], uuas[RANDOMIZED, "3"]) + 0.03
    for found in (uuas, roots):
        assert found[PARSER, "6"] > found[BASE, "6"] + 0.2
        assert found[PARSER, "6"] > found[RANDOMIZED, "6"] + 0.2


@pytest.mark.real_long
def test_the_table_of_structure(models, ewt, tmp_path, monkeypatch):
    """The command of `docs/structural.md`."""
    options = {"layers": "all,lexical", "seeds": 3, "limit": 4000, "controls": ["randomized"]}
    monkeypatch.chdir(models[0].parent)
    done = probe([BASE, PARSER], {"structural": ewt}, rank=64, **options)
    done.save(tmp_path / "out")
    for metric in ("uuas", "dspr", "root_accuracy", "nspr"):
        found = scores(done, metric)["structural"]
        base = found[BASE].drop(["lexical", "chain"])
        assert base.idxmax() in ("2", "3", "4")
        for layer in ("3", "4", "5", "6"):
            assert found[PARSER, layer] > found[BASE, layer]
        best = max(base.max(), found[PARSER].max())
        controls = max(found[BASE, "chain"], found[RANDOMIZED].max())
        assert base.max() > controls + 0.1
        assert best > controls + 0.2
