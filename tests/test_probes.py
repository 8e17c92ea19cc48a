"""`probe` from texts to report: what is in the table, what is found, refused and told."""

import json
import math
import re
import shlex
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from bertft import cli
from bertft.cli.printing import show_probing
from bertft.corpora.edges import Record, Target
from bertft.probes import COLUMNS, DIFFERENCES, Probing, probe
from bertft.probing.controls import control_labels
from bertft.probing.tasks import EdgeTask

NOUNS, VERBS, PLACES = ("cat", "dog", "boat"), ("sat", "ran", "saw"), ("mat", "hill")
KINDS = {"the": "D", "a": "D", "on": "P"} | dict.fromkeys(VERBS, "V")
QUICK = {"epochs": 2}
EVERY_LAYER = "all,mix,cumulative,lexical"
DEPTH = 3
NUMBERS = [str(layer) for layer in range(DEPTH + 1)]
MIXED = ["mix", *(f"cumulative-{layer}" for layer in range(DEPTH + 1))]


def sentences(n, seed=0):
    draw = np.random.default_rng(seed)
    for _ in range(n):
        noun, verb, place = (draw.choice(words) for words in (NOUNS, VERBS, PLACES))
        yield ("the", str(noun), str(verb), "on", "a", str(place))


def tagged(words):
    """What kind of word each one is."""
    return [Target(((i, i + 1),), (KINDS.get(word, "N"),)) for i, word in enumerate(words)]


def related(words):
    """What the verb is to a span of words."""
    spans = {"subject": (0, 2), "place": (3, 6), "itself": (2, 3)}
    return [Target(((2, 3), span), (label,)) for label, span in spans.items()]


def described(words):
    """Several labels for a word."""
    return [
        Target(((i, i + 1),), (KINDS.get(word, "N"), f"{len(word)} letters"))
        for i, word in enumerate(words)
    ]


def task(name, targets=tagged, n=30, dev=15):
    train, held_out = (
        [Record(words, tuple(targets(words))) for words in sentences(size, seed)]
        for seed, size in enumerate((n, dev))
    )
    return EdgeTask.of(name, train, held_out)


def other_on_dev():
    """Dev words have the one label that micro-F1 leaves out, and probes learn to say it."""
    train = [
        Record(
            words,
            tuple(Target(t.spans, ("x" if "V" in t.labels else "Other",)) for t in tagged(words)),
        )
        for words in sentences(30)
    ]
    dev = [Record(("a", "cat"), (Target(((1, 2),), ("Other",)),))] * 3
    return EdgeTask.of("t", train, dev)


def write(folder, task):
    """Write a task to the files that it can be read from."""
    folder.mkdir(parents=True)
    for part, records in (("train", task.train), ("dev", task.dev)):
        lines = []
        for record in records:
            targets = [
                {f"span{s}": span for s, span in enumerate(target.spans, 1)}
                | {"label": list(target.labels)}
                for target in record.targets
            ]
            lines.append(json.dumps({"text": " ".join(record.words), "targets": targets}))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def values(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    return table["value"].to_numpy()


@pytest.fixture
def base(checkpoint):
    return checkpoint("base")


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data", task("kinds"))


SOLVED = "Linear probes of single layers are solved: epochs and lr do not change them."


def run(models, tasks, **options):
    return probe(models, tasks, **{"layers": "1", **QUICK, **options})


def told(done):
    """The notes of a run, but for what those of linear probes that are given epochs say."""
    return [note for note in done.provenance["notes"] if note != SOLVED]


@pytest.mark.parametrize("family", ["linear", "mlp", "edge"])
@pytest.mark.parametrize("targets", [tagged, related, described])
def test_a_run_has_the_rows_of_its_options(base, checkpoint, family, targets):
    made = task("t", targets, n=12, dev=8)
    models = [base, checkpoint("tuned", seed=1)]
    done = probe(
        models,
        {"t": made},
        layers=EVERY_LAYER,
        probe=family,
        controls=["randomized", "control-task"],
        code_length=True,
        seeds=2,
        **QUICK,
    )
    table, names = done.table, [*map(str, models), "randomized"]
    assert list(table) == list(COLUMNS)
    numeric = dict.fromkeys(("value", "low", "high"), "float64")
    numeric |= dict.fromkeys(("seed", "n"), "int64")
    for name in COLUMNS:
        assert table[name].dtype == numeric.get(name, "str")
    assert list(table["model"].unique()) == names
    assert set(table["probe"]) == {family}
    scores = ["micro_f1", "accuracy"] if made.exclusive else ["micro_f1"]
    every = [*scores, "code_length_bits", "compression"]
    every += ["selectivity"] if made.exclusive else []
    expected = {(layer, metric) for layer in ("lexical", *NUMBERS, *MIXED) for metric in every}
    expected |= {("mix", "center_of_gravity"), (f"cumulative-{DEPTH}", "expected_layer")}
    for _, own in table.groupby(["model", "seed"]):
        pairs = list(zip(own["layer"], own["metric"], strict=True))
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == expected
    assert list(done.differences) == list(DIFFERENCES)
    assert done.differences.dtypes.astype(str).to_dict() == DIFFERENCES
    differing = done.differences.groupby("model", sort=False).size()
    assert list(differing.index) == names[1:]
    assert (differing == len(scores) * len(["lexical", *NUMBERS, *MIXED])).all()
    assert set(done.differences["base"]) == {names[0]}
    assert set(done.differences["n_seeds"]) == {2}


def test_statistics(base, checkpoint):
    # Unseen words, so that nobody is right everywhere.
    made = task("t", n=6, dev=40)
    done = run(
        [base, checkpoint("b", seed=3)],
        {"t": made},
        layers=EVERY_LAYER,
        probe="mlp",
        seeds=3,
        code_length=True,
        controls="randomized,control-task",
    )
    table = done.table
    scored = table[table["metric"].isin(["micro_f1", "accuracy", "selectivity"])]
    assert (scored["low"] <= scored["value"]).all()
    assert (scored["value"] <= scored["high"]).all()
    assert (scored["low"] < scored["high"]).any()
    coded = table["metric"].isin(["code_length_bits", "compression"])
    assert set(table["n"][~coded]) == {240}
    assert set(table["n"][coded]) == {36}
    assert table.loc[~table.index.isin(scored.index), ["low", "high"]].isna().all(axis=None)
    bits, ratio = (values(table, metric=name) for name in ("code_length_bits", "compression"))
    np.testing.assert_allclose(bits * ratio, 36 * math.log2(4))
    gravity = values(table, metric="center_of_gravity")
    assert ((gravity >= 0) & (gravity <= DEPTH)).all()
    # One label each and one decision each: as many are predicted as there are.
    np.testing.assert_allclose(
        values(table, metric="micro_f1"), values(table, metric="accuracy"), atol=1e-12
    )
    changes = done.differences
    assert ((changes["low"] <= changes["value"]) & (changes["value"] <= changes["high"])).all()
    assert set(changes["n"]) == {240}
    means = table.groupby(["model", "layer", "metric"])["value"].mean()
    for row in changes.itertuples():
        own, other = (means[name, row.layer, row.metric] for name in (row.model, row.base))
        assert row.value == pytest.approx(own - other, abs=1e-12)
    assert abs(changes["value"]).max() > 0


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", NUMBERS),
        ("all,1,lexical,all, 0", ["lexical", *NUMBERS]),
        ("mix", ["mix"]),
        ("cumulative", MIXED[1:]),
        ("lexical", ["lexical"]),
        ("3,0,03", ["0", "3"]),
        (2, ["2"]),
        ([2, "mix"], ["2", "mix"]),
    ],
)
def test_layers(base, layers, expected):
    done = run(base, {"t": task("t")}, layers=layers)
    assert list(done.table["layer"].unique()) == expected
    assert not done.table.duplicated(["layer", "metric"]).any()
    assert f"{len(expected)} layers" in repr(done)


def test_layers_under_two_names_are_one(base):
    options = {"probe": "edge", "seeds": 2, "epochs": 6}
    made = {"t": task("t", n=8)}
    done = run(base, made, layers=EVERY_LAYER, **options).table
    alone = run(base, made, layers="lexical", **options).table
    for metric in ("micro_f1", "accuracy"):
        top = values(done, layer=f"cumulative-{DEPTH}", metric=metric)
        assert np.array_equal(values(done, layer="mix", metric=metric), top)
        lowest = values(done, layer="0", metric=metric)
        assert np.array_equal(values(done, layer="lexical", metric=metric), lowest)
        assert np.array_equal(values(alone, metric=metric), lowest)


def hide(model):
    """Blocks that let the sentence be known in layer 2 only.

    Block 1 changes nothing, block 2 adds the mean of all words to each, and block 3 forgets
    everything.
    """
    from torch.nn import init

    identity = torch.eye(model.config.hidden_size)
    with torch.no_grad():
        for number, block in enumerate(model.encoder.layer, start=1):
            attention = block.attention
            attend = (attention.self.query, attention.self.key, attention.self.value)
            for linear in (*attend, attention.output.dense, block.output.dense):
                init.zeros_(linear.weight)
                init.zeros_(linear.bias)
            if number == 2:
                attention.self.value.weight.copy_(identity)
                attention.output.dense.weight.copy_(identity)
            if number == 3:
                init.zeros_(block.output.LayerNorm.weight)
                init.zeros_(block.output.LayerNorm.bias)


def first_word(words):
    """What noun follows: the first word, always the same, does not tell."""
    return [Target(((0, 1),), (words[1],))]


@pytest.mark.parametrize("family", ["linear", "mlp", "edge"])
def test_the_layer_that_knows_is_found(checkpoint, family):
    model = checkpoint("planted", change=hide, initializer_range=0.5)
    made = task("noun", first_word, n=64, dev=40)
    training = {"epochs": 100, "lr": 3e-3} if family == "edge" else {"epochs": 300, "lr": 0.01}
    most = max(sum(label in t.labels for r in made.dev for t in r.targets) for label in made.labels)
    done = probe(
        model,
        {"noun": made},
        layers="all,mix,cumulative",
        probe=family,
        seeds=2,
        **training,
    )
    accuracy = done.table[done.table["metric"] == "accuracy"]
    found = accuracy.groupby("layer")["value"].min()
    best = accuracy.groupby("layer")["value"].max()
    assert found["2"] == 1
    assert best[["0", "1", "3", "cumulative-0", "cumulative-1"]].max() <= most / 40
    assert found[["cumulative-2", "cumulative-3", "mix"]].min() == 1
    gravity = values(done.table, metric="center_of_gravity")
    # Far from the 1.5 of equal weights.
    assert ((gravity > 1.65) & (gravity < 2.35)).all()
    assert values(done.table, metric="expected_layer") == pytest.approx([2, 2], abs=0.2)
    summary = done.summary
    assert list(summary[summary["role"] == "base"]["mean"]) == [1, 1]


def test_the_randomized_encoder_is_drawn_anew(checkpoint):
    model = checkpoint("planted", change=hide)
    done = run(
        model, {"noun": task("noun", first_word, n=64)}, layers="2,3", controls=["randomized"]
    )
    names = list(done.provenance["models"])
    assert names == [str(model), "randomized"]
    prints = [done.provenance["models"][name]["fingerprint"] for name in names]
    assert prints[0] != prints[1]
    assert values(done.table, model=str(model), layer="2", metric="accuracy") == 1
    forgotten = values(done.table, model=str(model), layer="3", metric="accuracy")
    assert forgotten < values(done.table, model="randomized", layer="3", metric="accuracy")


def test_selectivity_is_against_the_accuracy_on_control_labels(base):
    made = task("t", n=8, dev=20)
    done = run(base, {"t": made}, layers="1", controls=["control-task"], seeds=[3])
    types = [
        [record.words[target.spans[0][0]] for record in records for target in record.targets]
        for records in (made.train, made.dev)
    ]
    number = {label: c for c, label in enumerate(made.labels)}
    labels = torch.zeros(len(types[0]), len(number), dtype=torch.uint8)
    gold = [target.labels[0] for record in made.train for target in record.targets]
    labels[torch.arange(len(gold)), torch.tensor([number[label] for label in gold])] = 1
    drawn = [
        [made.labels[c] for c in own.argmax(1).tolist()] for own in control_labels(types, labels, 3)
    ]
    assert {len(set(zip(t, d, strict=True))) for t, d in zip(types, drawn, strict=True)} == {
        len(set(own)) for own in types
    }
    parts = []
    for records, own in zip((made.train, made.dev), drawn, strict=True):
        following = iter(own)
        parts.append(
            [
                Record(r.words, tuple(Target(t.spans, (next(following),)) for t in r.targets))
                for r in records
            ]
        )
    control = run(base, {"c": EdgeTask.of("c", *parts)}, layers="1")
    accuracy = values(done.table, metric="accuracy") - values(control.table, metric="accuracy")
    assert values(done.table, metric="selectivity") == pytest.approx(accuracy, abs=1e-12)


def heads_by_type(made):
    """A treebank's task whose arcs are those of its control, by the first draw of all."""
    records = [*made.train, *made.dev]
    vocabulary = sorted({word for record in records for word in record.words})
    place = dict(zip(vocabulary, np.random.default_rng(0).integers(3, size=99), strict=False))
    parts = []
    for part in (made.train, made.dev):
        parts.append([])
        for words, targets in ((record.words, record.targets) for record in part):
            heads = [(i, 0, len(words) - 1)[place[word]] for i, word in enumerate(words)]
            arcs = zip(heads, targets, strict=True)
            parts[-1].append(
                Record(words, tuple(Target((t.spans[0], (h, h + 1)), t.labels) for h, t in arcs))
            )
    return parts


def arcs(words):
    """A chain with its root at the end, and for a relation the kind of the head."""
    heads = [min(i + 1, len(words) - 1) for i in range(len(words))]
    return [
        Target(((i, i + 1), (h, h + 1)), (KINDS.get(words[h], "N"),)) for i, h in enumerate(heads)
    ]


@pytest.mark.parametrize("family", ["linear", "edge"])
def test_the_control_of_arcs_has_arcs_of_its_own(base, family, monkeypatch):
    monkeypatch.setattr(
        "bertft.probing.assignments.control_labels", lambda types, labels, seed: kept[0]
    )
    made = task("arcs", arcs, n=8, dev=20)
    # Labels stay those of the true heads, so that nothing but the arcs differs.
    kept = [[one_hot(made, part) for part in (made.train, made.dev)]]
    done = run(base, {"arcs": made}, probe=family, controls=["control-task"], epochs=30)
    control = run(base, {"c": EdgeTask.of("c", *heads_by_type(made))}, probe=family, epochs=30)
    accuracy = values(done.table, metric="accuracy") - values(control.table, metric="accuracy")
    assert values(done.table, metric="selectivity") == pytest.approx(accuracy, abs=1e-12)
    assert accuracy > 0.02


def one_hot(made, records):
    gold = [made.labels.index(t.labels[0]) for record in records for t in record.targets]
    return torch.eye(len(made.labels), dtype=torch.uint8)[gold]


def test_selectivity_and_code_of_mixtures(base):
    """A mixture of layer 0 alone reads what layer 0 does, up to a factor."""
    made = {"t": task("t", n=40, dev=20)}
    options = {"controls": "control-task", "code_length": True, "probe": "mlp", "epochs": 60}
    done = run(base, made, layers="0,mix,cumulative", **options)
    for metric in ("selectivity", "compression"):
        found = values(done.table, metric=metric)
        assert len(found) == 1 + len(MIXED)
        assert np.isfinite(found).all()
    ratio = values(done.table, metric="compression", layer="cumulative-0")
    assert ratio == pytest.approx(values(done.table, metric="compression", layer="0"), rel=0.05)
    # A control of five words of each kind is learned by heart, and dev has no other words.
    assert abs(values(done.table, metric="selectivity", layer="mix")) < 0.05


def test_spans_share_a_projection_where_that_is_asked_for(base, checkpoint):
    tasks = {"pair": task("pair", related), "t": task("t")}
    options = {"probe": "edge", "layers": "1,mix"}
    done = run(base, tasks, symmetric="pair", **options)
    plain = run(base, tasks, **options)
    assert [of["symmetric"] for of in done.provenance["tasks"]] == [True, False]
    assert done.provenance["options"]["symmetric"] == ["pair"]
    differing = done.table["value"].to_numpy() != plain.table["value"].to_numpy()
    assert set(done.table["task"][differing]) == {"pair"}
    for wrong in ({"symmetric": "t"}, {"symmetric": "pair,nought"}, {"probe": "mlp"}):
        with pytest.raises(ValueError, match=r"symmetric must name tasks of edge probes with two"):
            run(base, tasks, **{"symmetric": "pair", **options, **wrong})


def test_tasks_from_files_and_in_memory_are_alike(base, folder):
    of_files = run(base, {"kinds": folder}, limit=20)
    assert of_files.provenance["tasks"][0]["train"]["sentences"] == 20
    whole, in_memory = (run(base, {"kinds": made}) for made in (folder, task("kinds")))
    pd.testing.assert_frame_equal(whole.table, in_memory.table, check_exact=True)
    assert whole.provenance["tasks"] == in_memory.provenance["tasks"]


@pytest.mark.parametrize("family", ["linear", "edge"])
def test_where_features_are_does_not_matter(base, tmp_path, family, monkeypatch):
    made, kept = {"t": task("t"), "pair": task("pair", related)}, tmp_path / "features"
    options = {"layers": "1,mix", "probe": family, "seeds": 2}
    done = run(base, made, **options)
    for where in ({"memory_gib": 0}, {"features": kept}):
        again = run(base, made, **options, **where)
        pd.testing.assert_frame_equal(done.table, again.table, check_exact=True)
    assert len(list(kept.glob("*/train/*.safetensors"))) == 2

    def never(*args):
        raise AssertionError("a pass")

    monkeypatch.setattr("bertft.recording._Pass.run", never)
    # Fewer layers than are there are there too.
    fewer = run(base, made, **{**options, "layers": "1"}, features=kept)
    assert np.array_equal(values(fewer.table), values(done.table, layer="1"))
    with pytest.raises(ValueError, match=r"must hold features of the same .* data differs"):
        run(base, {"t": task("t", n=4)}, **options, features=kept)


def test_temporary_features_go(base, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    run(base, {"t": task("t")}, memory_gib=0)
    with pytest.raises(ValueError, match="losses must be finite"):
        run(base, {"t": task("t")}, memory_gib=0, layers="mix", lr=1e30)
    assert not list((tmp_path / "temporary").iterdir())


def test_kept_features_are_those_of_their_model(base, checkpoint, tmp_path):
    made, kept = {"t": task("t")}, tmp_path / "features"
    run(base, made, features=kept)
    [shard] = kept.glob("t-spans/dev/*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=rf"shard .*{shard.name}' must have {len(whole)} bytes"):
        run(base, made, features=kept)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"shard .*{shard.name}' must have the checksum"):
        run(base, made, features=kept)
    shard.write_bytes(whole)
    run(base, made, features=kept)
    checkpoint("base", seed=5)
    with pytest.raises(ValueError, match=r"must hold features of the same .* model .* differs"):
        run(base, made, features=kept)


def test_a_bad_store_of_any_task_is_told_before_the_first_is_trained(base, tmp_path, monkeypatch):
    made, kept = {"t": task("t"), "u": task("u")}, tmp_path / "features"
    run(base, made, features=kept)
    monkeypatch.setattr("bertft.probes.probe_subject", None)
    [shard] = kept.glob("u-spans/dev/*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=rf"shard .*u-spans.* must have {len(whole)} bytes"):
        run(base, made, features=kept)
    shard.write_bytes(whole)
    with pytest.raises(ValueError, match=r"must hold features of .*u-spans.* data differs"):
        run(base, {"t": task("t"), "u": task("u", n=4)}, features=kept)


def test_a_score_without_a_value_has_its_reason(base):
    found = run(base, {"t": other_on_dev()}, layers="0,mix")
    f1 = found.table[found.table.metric == "micro_f1"].value
    assert f1.isna().any()
    [note] = [n for n in found.provenance["notes"] if "micro_f1" in n]
    assert note.startswith(f"t: micro_f1 of {int(f1.isna().sum())} probe")
    assert "no value" in note


def test_runs_repeat_bit_for_bit(base, checkpoint):
    models = [base, checkpoint("other", seed=2)]
    options = {"layers": "2,mix", "controls": "randomized,control-task", "seeds": 2}
    for family in ("linear", "edge"):
        first, second = (
            probe(models, {"t": task("t")}, probe=family, code_length=True, **QUICK, **options)
            for _ in range(2)
        )
        pd.testing.assert_frame_equal(first.table, second.table, check_exact=True)
        pd.testing.assert_frame_equal(first.differences, second.differences, check_exact=True)


def test_seeds_are_a_number_or_a_list(base):
    made = {"t": task("t", n=4)}
    options = {"probe": "mlp", "controls": "control-task"}
    counted = run(base, made, seeds=3, **options).table
    listed = run(base, made, seeds=[2, np.int64(0)], **options).table
    assert list(listed["seed"].unique()) == [2, 0]
    for seed in (0, 2):
        own, other = (table[table["seed"] == seed] for table in (counted, listed))
        # A probe has other probes beside it, which changes its rounding.
        np.testing.assert_allclose(own["value"], other["value"], atol=0.05)
    high = run(base, made, seeds=[2**63 - 1], **options)
    assert list(high.table["seed"].unique()) == [2**63 - 1]


def test_settings_of_adam_are_told_where_probes_are_solved(base):
    made = {"t": task("t")}
    for options in ({"epochs": 2}, {"lr": 1e-2}):
        assert probe(base, made, layers="1", **options).provenance["notes"] == [SOLVED]
        of_mlp = probe(base, made, layers="1", probe="mlp", **{"epochs": 1, **options})
        assert of_mlp.provenance["notes"] == []
    assert probe(base, made, layers="1").provenance["notes"] == []


@pytest.mark.parametrize("batch_size", [1, 7])
def test_passes_of_any_size_agree(base, batch_size):
    made = {"t": task("t")}
    done, other = (run(base, made, code_length=True, batch_size=b) for b in (32, batch_size))
    np.testing.assert_allclose(values(done.table), values(other.table), rtol=1e-3)


def test_models_with_other_tokenizers_have_a_pass_of_their_own(
    base, checkpoint, tokenizer, tmp_path
):
    from transformers import BertTokenizerFast

    third = checkpoint("third", seed=2)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary[:5] + vocabulary[:4:-1]))
    other = BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=7)
    second = checkpoint("second", seed=1)
    other.save_pretrained(second)
    models, kept = [base, second, third], tmp_path / "features"
    options = {"layers": "1", "controls": "randomized", "features": kept}
    done = run(models, {"t": task("t")}, **options)
    assert list(done.table["model"].unique()) == [*map(str, models), "randomized"]
    described = done.provenance["tasks"]
    shared = [str(base), str(third), "randomized"]
    assert [of["models"] for of in described] == [shared, [str(second)]]
    # [CLS], five words, [SEP]: the last word is cut off.
    assert [of["dev"]["cut"] for of in described] == [0, 15]
    assert [of["dev"]["targets"] for of in described] == [90, 75]
    notes = told(done)
    assert len(notes) == 2
    assert all(note.endswith(f"({second})") for note in notes)
    assert done.table.groupby("model")["n"].first().to_dict() == {
        **dict.fromkeys(shared, 90),
        str(second): 75,
    }
    again = run(models, {"t": task("t")}, **options)
    pd.testing.assert_frame_equal(done.table, again.table, check_exact=True)
    alone = run(second, {"t": task("t")}).table
    np.testing.assert_allclose(values(alone), values(done.table, model=str(second)), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_models_in_memory_stay_as_they_are(base, dtype):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(base, dtype=dtype)
    model.train()
    model.encoder.layer[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    done = run(model, {"t": task("t")}, layers="all,mix", controls="randomized", device="cpu")
    assert [module.training for module in model.modules()] == modes
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(torch.equal(before[name], own) for name, own in model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert done.table["value"].notna().all()
    if dtype == torch.float32:
        by_name = run(base, {"t": task("t")}, layers="all,mix", controls="randomized")
        np.testing.assert_array_equal(values(done.table), values(by_name.table))


def test_a_model_from_nowhere_needs_a_tokenizer(make_model, tokenizer):
    model = make_model(head="AutoModelForSequenceClassification")
    with pytest.raises(ValueError, match="model must come with a tokenizer"):
        run(model, {"t": task("t")})
    done = run(model, {"t": task("t")}, tokenizer=tokenizer)
    assert list(done.table["model"].unique()) == ["BertForSequenceClassification"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_features_tell_nearly_the_same(base, dtype):
    made = {"t": task("t", n=6)}
    wide, narrow = (
        run(base, made, layers="1,mix", probe="mlp", code_length=True, features_dtype=kept).table
        for kept in ("float32", dtype)
    )
    scores = [table[table["metric"] == "micro_f1"]["value"] for table in (wide, narrow)]
    np.testing.assert_allclose(*scores, atol=0.05)
    bits = [values(table, metric="code_length_bits") for table in (wide, narrow)]
    np.testing.assert_allclose(*bits, rtol=0.05)
    assert not np.array_equal(*bits)


@pytest.mark.parametrize("kind", ["albert", "albert-groups", "distilbert", "gpt2"])
def test_architectures(checkpoint, kind):
    done = run(checkpoint("m", kind=kind), {"t": task("t")}, layers="all,mix,cumulative")
    # Where mixtures gain nothing, which layer they gain it in has no answer.
    known = done.table["metric"] != "expected_layer"
    assert done.table["value"].notna()[known].all()


def test_a_model_of_one_layer(checkpoint):
    model = checkpoint("shallow", num_hidden_layers=1)
    done = run(model, {"t": task("t")}, layers=EVERY_LAYER, controls="randomized")
    layers = ["lexical", "0", "1", "mix", "cumulative-0", "cumulative-1"]
    assert list(done.table["layer"].unique()) == layers
    expected = values(done.table, metric="expected_layer")
    # All that is gained is gained in layer 1; where nothing is, no layer can be named.
    assert (np.isnan(expected) | (abs(expected - 1) < 1e-9)).all()


def test_models_of_several_depths(base, checkpoint, tmp_path):
    shallow = checkpoint("shallow", num_hidden_layers=2)
    done = run([shallow, base], {"t": task("t")}, layers=EVERY_LAYER)
    assert set(done.table[done.table["model"] == str(base)]["layer"]) >= {"3", "cumulative-3"}
    # Where the first model has no such layer there is nothing to compare with.
    assert set(done.differences["layer"]) == {"lexical", *NUMBERS[:3], *MIXED[:4]}
    done.save(tmp_path / "out")
    with pytest.raises(ValueError, match=r"layers must be at most the 2 of '.*shallow', got 3"):
        run([base, shallow], {"t": task("t")}, layers="3")


def test_unknown_labels_are_told_and_missed(base):
    known = task("t")
    spans, words = ((1, 2),), ("the", "dog")
    extra = Record(
        words, (Target(spans, ("new",)), Target(spans, ("newer",)), Target(spans, ("N",)))
    )
    dev = [*known.dev, extra, Record(words, (Target(spans, ("new",)),))]
    done = run(base, {"t": EdgeTask.of("t", known.train, dev)})
    [note] = told(done)
    assert note == "t, dev: labels that training lacks count as missed: new (2), newer (1)"
    assert done.provenance["tasks"][0]["unknown"] == {"new": 2, "newer": 1}
    # 91 of 94 can be right; each of 94 is predicted once and true once.
    assert values(done.table, metric="accuracy") == pytest.approx(91 / 94)
    assert values(done.table, metric="micro_f1") == pytest.approx(91 / 94)
    assert set(done.table["n"]) == {94}


def test_a_dev_part_need_not_have_every_label(base, tmp_path):
    made = task("t")
    dev = [Record(("the", "dog"), (Target(((1, 2),), ("N",)),))]
    done = run(base, {"t": EdgeTask.of("t", made.train, dev)}, layers="all,mix", code_length=True)
    assert (values(done.table, metric="accuracy")[:1] == 1).all()
    alone = "t: no interval of micro_f1, accuracy where only one dev sentence counts."
    assert done.provenance["notes"] == [SOLVED, alone]
    done.save(tmp_path / "out")


def test_targets_that_are_cut_off_are_counted(base):
    made = task("t")
    # [CLS], four words, [SEP].
    done = run(base, {"t": made}, max_length=6)
    [of] = done.provenance["tasks"]
    assert (of["train"]["cut"], of["train"]["targets"]) == (60, 120)
    assert (of["dev"]["cut"], of["dev"]["targets"]) == (30, 60)
    assert told(done) == [
        "t, train: left out: 60 targets beyond the maximal length.",
        "t, dev: left out: 30 targets beyond the maximal length.",
    ]
    assert set(done.table["n"]) == {60}
    assert done.provenance["options"]["max_length"] == 6


def test_a_sentence_longer_than_the_model_takes(base):
    made = task("t")
    long = Record(("cat",) * 100, (Target(((61, 62),), ("N",)), Target(((62, 63),), ("N",))))
    done = run(base, {"t": EdgeTask.of("t", made.train, [*made.dev, long])})
    assert done.provenance["tasks"][0]["dev"]["cut"] == 1
    assert set(done.table["n"]) == {91}


def test_nothing_left_is_refused_before_anything_is_trained(base, monkeypatch):
    monkeypatch.setattr("bertft.probes.probe_subject", None)
    end = [Record(("the",) * 6, (Target(((5, 6),), (label,)),)) for label in "AB"]
    with pytest.raises(ValueError, match=r"records must have a target that the tokenizer keeps"):
        run(base, {"t": task("t"), "end": EdgeTask.of("end", end, end)}, max_length=6)


@pytest.mark.parametrize("part", ["training", "dev"])
def test_labels_that_are_all_left_out_are_refused_too(base, monkeypatch, part):
    monkeypatch.setattr("bertft.probes.probe_subject", None)
    kept = Record(("the", "dog"), (Target(((0, 1),), ("A",)), Target(((1, 2),), ("B",))))
    rest = Record(("the",) * 6, (Target(((0, 1),), ("A",)), Target(((5, 6),), ("B",))))
    other = Record(("the",), (Target(((0, 1),), ("Z",)),))
    made = EdgeTask.of("t", [rest if part == "training" else kept], [kept])
    if part == "dev":
        made = EdgeTask.of("t", [kept], [other])
    with pytest.raises(ValueError, match=r"\[probe\] t must have two labels or more among the"):
        run(base, {"u": task("u"), "t": made}, max_length=6)


def test_labels_that_lose_all_their_targets_are_told(base):
    made = task("t")
    gone = Record(("\u200d", "cat"), (Target(((0, 1),), ("rare",)),))
    done = run(base, {"t": EdgeTask.of("t", [*made.train, gone], [*made.dev])})
    assert told(done)[-1].endswith("how often they are held out: rare (0)")


def test_models_with_one_last_name_have_columns_of_their_own(base, checkpoint, tmp_path, capsys):
    places = []
    for name, source in (("a", base), ("b", checkpoint("tuned", seed=1))):
        places.append(tmp_path / name / "final")
        shutil.copytree(source, places[-1])
    show_probing(run(list(map(str, places)), {"t": task("t")}))
    # One in the title and two differences: the lexical layer's and the other model's.
    assert capsys.readouterr().out.count("(") == 3


@pytest.mark.parametrize(("width", "parts"), [(100, 1), (60, 2), (46, 3)])
def test_terminals_show_whole_cells(checkpoint, monkeypatch, tmp_path, capsys, width, parts):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    names = [checkpoint(name, seed=s).name for s, name in enumerate(("base", "fine-tuned"))]
    done = probe(names, {"t": task("t", n=6)}, layers="1,lexical", controls="randomized")
    show_probing(done)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "linear probes, % (less the first model), layer 1"
    assert max(map(len, lines)) <= width
    heads = [line.split() for line in lines if "score" in line]
    assert len(heads) == parts
    shown = [name for head in heads for name in head[2:]]
    assert all(head[:2] == ["task", "score"] for head in heads)
    assert shown == ["base", "fine-tuned", "lexical", "randomized"]
    rows = [line.split()[:2] for line in lines if line.split()[:1] == ["t"]]
    assert rows == parts * [["t", "micro_f1"], ["t", "accuracy"]]


def test_words_without_a_piece_are_counted(base):
    made = task("t")
    gone = Record(("\u200d", "cat"), (Target(((0, 1),), ("N",)), Target(((0, 2),), ("N",))))
    covered = Record(gone.words, gone.targets[1:])
    done = run(base, {"t": EdgeTask.of("t", [*made.train, gone], [*made.dev, covered])})
    [of] = done.provenance["tasks"]
    assert (of["train"]["dropped_words"], of["train"]["dropped"]) == (1, 1)
    assert (of["dev"]["dropped_words"], of["dev"]["dropped"]) == (1, 0)
    assert told(done) == [
        "t, train: 1 word without a token; left out: 1 target of nothing else.",
        "t, dev: 1 word without a token.",
    ]


@pytest.mark.parametrize("family", ["linear", "mlp", "edge"])
def test_the_least_tasks(base, tmp_path, family):
    words, span = ("the", "cat"), ((0, 1),)
    tasks = {
        # A target with two labels is a task of its own.
        "one": EdgeTask.of(
            "one",
            [Record(words, (Target(span, ("A", "B")),))],
            [Record(words, (Target(span, ("A",)),))],
        ),
        "two": EdgeTask.of(
            "two",
            [Record(words, (Target(span, ("A",)),)), Record(words, (Target(((1, 2),), ("B",)),))],
            [Record(words, (Target(span, ("A",)),)), Record(words, ())],
        ),
    }
    done = run(
        base,
        tasks,
        layers="1,mix,cumulative",
        probe=family,
        seeds=2,
        code_length=True,
        controls="randomized,control-task",
    )
    coded = done.table[done.table["metric"] == "code_length_bits"]
    assert (coded[coded["task"] == "one"]["value"] == 2).all()
    assert np.isfinite(coded["value"]).all()
    assert set(done.table["n"][done.table["metric"] == "micro_f1"]) == {1}
    assert told(done) == [
        "one: no selectivity, which wants one label for each target.",
        "one: no interval of micro_f1 where only one dev sentence counts.",
        "two: no interval of micro_f1, accuracy, selectivity where only one dev sentence counts.",
    ]
    done.save(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": "top"}, "layers must be numbers or among all, mix, .*, got top;"),
        ({"layers": "1,-1,1.5"}, "layers must be .*, got -1, 1.5;"),
        ({"layers": ""}, "layers must be .*, got none;"),
        ({"layers": []}, "layers must be .*, got none;"),
        ({"layers": "4"}, "layers must be at most the 3 of .*, got 4;"),
        ({"probe": "tree"}, "probe must be one of linear, mlp, edge, got 'tree';"),
        ({"controls": ["shuffled"]}, "controls must be among randomized, control-task, got shuff"),
        ({"controls": "none,of"}, "controls must be among .*, got none, of;"),
        ({"seeds": 0}, "seeds must be at least one, .*, got 0;"),
        ({"seeds": [1, 1]}, r"seeds must be .* different .*, got \[1, 1\];"),
        ({"seeds": [-1]}, r"seeds must be .* from 0 to .*, got \[-1\];"),
        ({"seeds": [2**63]}, r"seeds must be .* from 0 to 2\*\*63 - 1, got \[9223372036854775808"),
        ({"max_length": 65}, "max_length must be at most what the models take, 64, got 65;"),
        ({"max_length": 2}, "max_length must be more than the 2 special tokens .*, got 2;"),
        ({"max_length": 0}, "max_length must be more than .*, got 0;"),
        ({"batch_size": 0}, "batch_size must be at least 1 .*, got 0 and 4.0;"),
        ({"memory_gib": -1}, "memory_gib at least 0, got 32 and -1;"),
        ({"memory_gib": math.nan}, "memory_gib at least 0, got 32 and nan;"),
        ({"features_dtype": "int8"}, "features_dtype must be one of float32, .*, got 'int8';"),
        ({"epochs": 0}, "epochs and lr must be positive, got 0 and None;"),
        ({"device": "abacus"}, "device must be .*, got 'abacus';"),
        ({"limit": 5}, "tasks in memory must have .* no limit, got 't' as 't' with limit 5;"),
    ],
)
def test_bad_options(base, options, told):
    with pytest.raises(ValueError, match=r"^\[probe\] .*" + told):
        run(base, {"t": task("t")}, **options)


def test_bad_models_and_tasks(base, checkpoint, monkeypatch, tmp_path):
    made = task("t")
    with pytest.raises(ValueError, match="tasks must be at least one, got none;"):
        run(base, {})
    with pytest.raises(ValueError, match=r"tasks in memory must have the name .*, got 't' as 'u'"):
        run(base, {"u": made})
    with pytest.raises(FileNotFoundError, match="folder of t must exist, got"):
        run(base, {"t": tmp_path / "typo"})
    with pytest.raises(ValueError, match=r"models must be at least one, .* got \[\];"):
        run([], {"t": made})
    with pytest.raises(ValueError, match=r"models must be .* with different names .*; pass each"):
        run([base, str(base)], {"t": made})
    checkpoint("randomized")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="none called 'randomized'"):
        run("randomized", {"t": made})
    with pytest.raises(FileNotFoundError, match="model must be an existing folder"):
        run("./typo", {"t": made})


GOOD = {"text": "the cat", "targets": [{"span1": [0, 1], "label": "D"}]}


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ([{"span1": [1, 3], "label": "D"}], r"'span1' of a word or more within the 2 words"),
        ([{"span1": [1, 1], "label": "D"}], r"'span1' of a word or more"),
        ([{"span1": [0, 1]}], r"must have a label, got \[\]"),
        ([{"span1": [0, 1], "label": " "}], "must have a label"),
        ([], "must hold at least one target"),
        ([{"span1": [0, 1], "label": "D"}], r"must have two labels or more, got \['D'\]"),
    ],
)
def test_bad_files(base, tmp_path, targets, told):
    for part, own in (("train", targets), ("dev", GOOD["targets"])):
        (tmp_path / f"{part}.jsonl").write_text(json.dumps(GOOD | {"targets": own}) + "\n")
    with pytest.raises(ValueError, match=told):
        run(base, {"t": tmp_path})


HOSTILE = ("NA", "=1+1", "<b>&amp;", "$x_y$, \"q\" 'p'", "a\tb", "null")


def test_names_survive_whatever_they_are(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [str(checkpoint(name, seed=s).name) for s, name in enumerate(HOSTILE)]
    tasks = {"nan": task("nan"), "001": task("001", related)}
    done = run(names, tasks, layers="0,1,mix", features=tmp_path / "features")
    done.save("out")
    again = Probing.load("out")
    assert list(again.table["model"].unique()) == names
    pd.testing.assert_frame_equal(done.table, again.table, check_exact=True)
    pd.testing.assert_frame_equal(done.differences, again.differences, check_exact=True)
    assert "<b>&amp;" not in (tmp_path / "out" / "report.html").read_text().replace("&lt;", "")


def test_runs_are_saved_and_loaded(base, checkpoint, folder, tmp_path):
    models = [base, checkpoint("other", seed=1)]
    done = run(models, {"kinds": folder}, layers="all,mix,lexical", controls="randomized", seeds=2)
    out = tmp_path / "runs" / "out"
    done.save(out)
    files = "differences.csv figure.svg provenance.json report.html results.csv results.parquet"
    assert sorted(path.name for path in out.iterdir()) == files.split()
    again = Probing.load(out)
    pd.testing.assert_frame_equal(done.table, again.table, check_exact=True)
    pd.testing.assert_frame_equal(done.differences, again.differences, check_exact=True)
    assert again.provenance == done.provenance
    assert repr(again) == repr(done)
    assert again._repr_html_().startswith("<table")
    header = (out / "results.csv").read_text().splitlines()[0]
    assert header == "model,task,probe,layer,seed,metric,value,low,high,n"
    assert "<svg" in (out / "figure.svg").read_text()
    assert "<svg" in (out / "report.html").read_text()
    with pytest.raises(FileExistsError, match="out must not hold another run"):
        done.save(out)
    # One model has nothing to be compared with.
    alone = run(base, {"kinds": folder})
    alone.save(out, overwrite=True)
    empty = Probing.load(out).differences
    pd.testing.assert_frame_equal(empty, alone.differences)
    assert empty.empty
    for damage in (lambda path: path.write_text("model\nx\n"), lambda path: path.unlink()):
        damage(out / "differences.csv")
        with pytest.raises(ValueError, match=r"files of a run must be whole, got '.*differences"):
            Probing.load(out)


def test_provenance_is_whole(base, folder):
    done = run(base, {"kinds": folder}, seeds=[4], controls="randomized,randomized")
    provenance = json.loads(json.dumps(done.provenance))
    assert provenance["kind"] == "probe"
    assert provenance["options"]["controls"] == ["randomized"]
    assert provenance["options"]["seeds"] == [4]
    [of] = provenance["tasks"]
    assert of["labels"] == ["D", "N", "P", "V"]
    assert of["train"] == {
        "sentences": 30,
        "targets": 180,
        "cut": 0,
        "dropped_words": 0,
        "dropped": 0,
    }


@pytest.mark.parametrize(
    ("options", "epochs", "recorded"),
    [
        ({"layers": "1"}, None, {"probe", "l2"}),
        ({"layers": "mix"}, 2, {"probe", "lr", "schedule"}),
        ({"layers": "1,mix"}, 2, {"probe", "l2", "lr", "schedule"}),
        ({"layers": "1", "probe": "mlp"}, 2, {"probe", "lr", "schedule"}),
    ],
    ids=str,
)
def test_provenance_has_the_training_that_ran(base, folder, options, epochs, recorded):
    done = probe(base, {"kinds": folder}, epochs=epochs, **options)
    every = {"probe", "l2", "lr", "schedule", "rank"}
    assert not every & set(done.provenance["options"])
    [of] = json.loads(json.dumps(done.provenance["tasks"]))
    assert every & set(of) == recorded
    assert of["probe"] == options.get("probe", "linear")
    if epochs:
        # 180 targets make one batch: evaluations wait for more steps than there are.
        assert (of["schedule"]["epochs"], of["schedule"]["evaluate_every"]) == (2, 100)


def command(*argv):
    return CliRunner().invoke(cli.app, [*map(str, argv)], catch_exceptions=True)


def test_commands(base, checkpoint, folder, tmp_path, monkeypatch):
    out, other = tmp_path / "out", checkpoint("other", seed=1)
    argv = ["probe", base, other, "--task", f"kinds={folder}", "--out", out, "--epochs", 2]
    argv += ["--layers", "all,mix,cumulative,lexical", "--controls", "randomized, control-task"]
    typed = ["bertft", *map(str, argv)]
    monkeypatch.setattr(sys, "argv", typed)
    done = command(*argv, "--code-length", "--seeds", 2, "--limit", 20)
    assert done.exit_code == 0, done.output
    assert "kinds: 120 training and 90 dev targets, 4 labels" in done.output
    assert "linear probes, % (less the first model), mix" in done.output
    assert f"report: {out / 'report.html'}" in done.output.replace("\n", "")
    made = Probing.load(out)
    assert set(made.table["metric"]) == {
        *("micro_f1", "accuracy", "selectivity", "code_length_bits", "compression"),
        *("center_of_gravity", "expected_layer"),
    }
    assert shlex.split(made.provenance["command"]) == typed
    (out / "report.html").unlink()
    again = command("report", out)
    assert again.exit_code == 0, again.output
    assert "linear probes" in again.output
    assert (out / "report.html").is_file()
    refused = command(*argv)
    assert isinstance(refused.exception, FileExistsError)
    replaced = command(*argv, "--overwrite", "--probe", "edge")
    assert replaced.exit_code == 0, replaced.output
    assert set(Probing.load(out).table["probe"]) == {"edge"}


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (["kinds"], "task must be NAME=FOLDER, each name once, got 'kinds';"),
        (["kinds="], "task must be NAME=FOLDER"),
        (["a=x", "a=y"], "task must be NAME=FOLDER, each name once, got 'a=y';"),
        (["a b=x"], "name must be of letters, digits, - and _, got 'a b';"),
        (["=x"], "name must be of letters, digits, - and _, got '';"),
        (["structural=x"], "folder of structural must exist, got 'x'; check the path"),
    ],
)
def test_commands_that_cannot_be(base, tmp_path, monkeypatch, capsys, tasks, told):
    argv = ["bertft", "probe", str(base), "--out", str(tmp_path / "out")]
    argv += [part for task in tasks for part in ("--task", task)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert re.search(told, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_treebanks_are_read(base, tmp_path):
    rows = ["the DET 2 det", "cat NOUN 3 nsubj", "sat VERB 0 root", "on ADV 3 advmod"]
    lines = []
    for number, row in enumerate(rows, start=1):
        word, tag, head, label = row.split()
        fields = [number, word, word, tag, "_", "_", head, label, "_", "_"]
        lines.append("\t".join(map(str, fields)))
    for part in ("train", "dev"):
        text = "\n".join([*lines, "", ""])
        (tmp_path / f"x-{part}.conllu").write_text(text * 20)
    done = run(base, {"pos": tmp_path, "arcs": tmp_path}, layers="lexical,mix", probe="edge")
    assert list(done.table["task"].unique()) == ["pos", "arcs"]
    labels = [of["labels"] for of in done.provenance["tasks"]]
    assert labels == [["ADV", "DET", "NOUN", "VERB"], ["advmod", "det", "nsubj", "root"]]
