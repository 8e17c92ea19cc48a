"""`probe` with structural probes, from treebanks to report."""

import json
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from bertft import cli
from bertft.corpora.conllu import Tree, read_trees, write_trees
from bertft.corpora.edges import from_tags
from bertft.corpora.miniature import Recipe, dependency_trees, pretrained_miniature, sentences
from bertft.probes import Probing, probe
from bertft.probing.structural_tasks import StructuralTask
from bertft.probing.tasks import EdgeTask
from bertft.report.figures import svg_text
from bertft.report.trees import distance_figure, tree_figure

WORDS = ("the", "cat", "sat", "on", "a", "mat", "hill", "dog", "ran", "saw")
QUICK = {"rank": 6, "epochs": 2}
METRICS = {"distance": ("uuas", "dspr"), "depth": ("root_accuracy", "nspr")}


def tree(random, n):
    words = tuple(str(word) for word in random.choice(WORDS, n))
    order, heads = random.permutation(n), np.zeros(n, int)
    for i in range(1, n):
        heads[order[i]] = order[random.integers(i)] + 1
    labels = tuple("dep" if head else "root" for head in heads)
    return Tree((*words, "."), ("X",) * n + ("PUNCT",), (*heads.tolist(), 1), (*labels, "p"), "", 1)


def treebank(n, seed, most=9):
    random = np.random.default_rng(seed)
    return [tree(random, int(random.integers(1, most))) for _ in range(n)]


@pytest.fixture
def task():
    return StructuralTask.of(treebank(40, 0), treebank(25, 1))


@pytest.fixture
def base(checkpoint):
    return checkpoint("base")


def run(models, task, **options):
    return probe(models, {"structural": task}, **{"layers": "1", **QUICK, **options})


def test_a_run_has_the_rows_of_its_options(base, checkpoint, task):
    models = [base, checkpoint("tuned", seed=1)]
    done = run(models, task, layers="all,lexical", controls=["randomized"], seeds=2)
    table, names = done.table, [*map(str, models), "randomized"]
    assert list(table["model"].unique()) == names
    assert set(table["task"]) == {"structural"}
    layers = ["lexical", *map(str, range(4))]
    for (model, _), own in table.groupby(["model", "seed"]):
        found = set(own[["probe", "layer", "metric"]].itertuples(index=False, name=None))
        every = [*layers, "chain"] if model == names[0] else layers
        expected = {(p, layer, m) for p, own in METRICS.items() for layer in every for m in own}
        assert found == expected
        assert len(own) == len(expected)
    assert (table["low"] <= table["value"] + 1e-12).all()
    assert (table["value"] <= table["high"] + 1e-12).all()
    values = table.set_index(["model", "seed", "probe", "metric", "layer"])["value"].unstack()
    assert values["lexical"].equals(values["0"])
    differences = done.differences
    assert list(differences["model"].unique()) == names[1:]
    assert len(differences) == 2 * len(layers) * 4
    assert set(differences["n_seeds"]) == {2}
    of = differences.set_index(["model", "probe", "metric", "layer"])["value"]
    means = table.groupby(["model", "probe", "metric", "layer"])["value"].mean()
    for key in of.index:
        expected = means[key] - means[(names[0], *key[1:])]
        assert of[key] == pytest.approx(expected, abs=1e-12)
    assert done.provenance["notes"] == []
    [about] = done.provenance["tasks"]
    assert about["rank"] == 6
    assert about["probe"] == ["distance", "depth"]
    # 40 sentences, 20 in a batch, and an evaluation after each pass.
    assert (about["schedule"]["epochs"], about["schedule"]["evaluate_every"]) == (2, 2)
    assert not {"probe", "rank", "lr", "l2", "schedule"} & set(done.provenance["options"])
    assert about["punctuation"] == "upos"
    assert about["dev"]["words"] == sum(len(tree.words) for tree in task.dev)


def test_counts_are_those_of_the_dev_trees(base, task):
    done = run(base, task)
    n = done.table.set_index(["probe", "layer", "metric"])["n"]
    kept = [sum(tag != "PUNCT" for tag in tree.tags) for tree in task.dev]
    long = [len(tree.words) for tree in task.dev if len(tree.words) >= 5]
    for layer in ("1", "chain"):
        assert n["distance", layer, "uuas"] == sum(size - 1 for size in kept)
        assert n["depth", layer, "root_accuracy"] == len(task.dev)
        assert n["distance", layer, "dspr"] == sum(long)
        assert n["depth", layer, "nspr"] == len(long)


def test_the_chain_is_the_order_of_the_words(base):
    """In a sentence whose words hang from each other in order the chain is right in all."""
    chains = []
    for n in (5, 7, 12):
        labels = ("root", *["dep"] * (n - 1))
        chains.append(Tree(WORDS[:1] * n, ("X",) * n, tuple(range(n)), labels, "", 1))
    done = run(base, StructuralTask.of(chains, chains))
    assert (done.table[done.table["layer"] == "chain"]["value"] == 1).all()
    turned = [
        Tree(t.words, t.tags, (*range(2, len(t.words) + 1), 0), t.labels, "", 1) for t in chains
    ]
    found = run(base, StructuralTask.of(turned, turned)).table
    found = found[found["layer"] == "chain"].set_index("metric")["value"]
    assert found.to_dict() == {"uuas": 1, "dspr": 1, "root_accuracy": 0, "nspr": -1}


def test_layers_do_not_depend_on_each_other(base, task):
    together, alone = run(base, task, layers="all"), run(base, task, layers="2")
    own = together.table[together.table["layer"] == "2"]["value"].to_numpy()
    other = alone.table[alone.table["layer"] == "2"]["value"].to_numpy()
    np.testing.assert_allclose(own, other, atol=0.05)


def test_layers_of_several_widths(checkpoint, task):
    model = checkpoint("albert", kind="albert")
    done = run(model, task, layers="all,lexical")
    assert set(done.table["layer"]) == {"lexical", "0", "1", "2", "3", "chain"}


def test_what_is_for_labels_only_is_told(base, task):
    options = {"controls": "control-task", "code_length": True, "layers": "1,mix,cumulative"}
    done = run(base, task, **options)
    assert set(done.table["layer"]) == {"1", "chain"}
    assert done.provenance["notes"] == [
        f"structural: no {what}, only for probes of labels."
        for what in ("mixtures", "control task", "code length")
    ]
    with pytest.raises(ValueError, match=r"layers must be single ones .*, got mix, cumulative;"):
        run(base, task, layers="mix,cumulative")


def test_sentences_that_cannot_be_kept_whole(base, task):
    random = np.random.default_rng(2)
    long = tree(random, 70)
    blank = Tree(("the", "\u200b", "cat"), ("X",) * 3, (0, 1, 1), ("root", "dep", "dep"), "", 1)
    mixed = StructuralTask.of([*task.train, long, long, blank], [blank, *task.dev, long])
    done, plain = run(base, mixed), run(base, task)
    assert done.provenance["notes"] == [
        "structural, train: left out: 2 sentences longer than the maximal length.",
        "structural, train: left out: 1 sentence with a word without a token.",
        "structural, dev: left out: 1 sentence longer than the maximal length.",
        "structural, dev: left out: 1 sentence with a word without a token.",
    ]
    assert done.table["value"].tolist() == plain.table["value"].tolist()
    assert done.table["n"].tolist() == plain.table["n"].tolist()
    message = (
        r"^\[structural\] treebank must have a sentence .* got 2 of which 1 are longer than 64 "
    )
    with pytest.raises(ValueError, match=message + "positions and 1 have a word without a piece"):
        run(base, StructuralTask.of(task.train, [long, blank]))
    with pytest.raises(ValueError, match=r"^\[structural\] x-dev.conllu must have a sentence that"):
        run(base, StructuralTask.of(task.train, [replace(long, source="x-dev.conllu")]))


@pytest.mark.parametrize(
    ("tags", "lacking"),
    [
        ("X", {"uuas": "two words that are no punctuation", "dspr and nspr": "5 to 50 words"}),
        (
            "PUNCT",
            {
                "uuas": "two words that are no punctuation",
                "root_accuracy": "a word that is no punctuation",
                "dspr and nspr": "5 to 50 words",
            },
        ),
    ],
)
def test_scores_that_no_sentence_counts_for_are_told(base, task, tags, lacking):
    alone = Tree(("cat",), (tags,), (0,), ("root",), "", 1)
    done = run(base, StructuralTask.of(task.train, [alone, alone]))
    assert done.provenance["notes"] == [
        f"structural: no {scores}, for no dev sentence has {what}."
        for scores, what in lacking.items()
    ]
    empty = done.table.set_index("metric").query("n == 0")
    assert empty[["value", "low", "high"]].isna().all(axis=None)
    assert set(empty.index) == {name for scores in lacking for name in scores.split(" and ")}


def test_scores_of_one_sentence_have_no_interval(base, checkpoint, task):
    alone = task.dev[int(np.argmax([len(tree.words) for tree in task.dev]))]
    few = Tree(("cat", "."), ("X", "PUNCT"), (0, 1), ("root", "dep"), "", 1)
    models = [base, checkpoint("tuned", seed=1)]
    done = run(models, StructuralTask.of(task.train, [alone, few]), seeds=2)
    assert done.provenance["notes"] == [
        "structural: no interval of uuas, dspr, nspr where only one dev sentence counts."
    ]
    for table in (done.table, done.differences):
        of_two = table["metric"] == "root_accuracy"
        assert table["value"].notna().all()
        assert table["low"].notna().equals(of_two)
        assert table["high"].notna().equals(of_two)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 25}, "rank must be at most the 24 features of a word in .*base', got 25; pass"),
        ({"rank": 0}, "rank must be at least 1, got 0; pass such as 64"),
        ({"max_length": 65}, "max_length must be at most what the models take, 64, got 65"),
        ({"max_length": 2}, "max_length must be more than the 2 special tokens"),
        ({"epochs": 0}, "epochs and lr must be positive, got 0"),
        ({"layers": "4"}, "layers must be at most the 3 of .*, got 4"),
        ({"limit": 3}, "tasks in memory must have the name .* and no limit, got 'structural'"),
        (
            {"punctuation": "xpos"},
            "punctuation must be left out for trees in memory, got 'xpos'",
        ),
        (
            {"probe": "mlp"},
            "probe must be left out without a task of labels, got 'mlp'",
        ),
    ],
)
def test_bad_options(base, task, options, told):
    with pytest.raises(ValueError, match=rf"^\[probe\] {told}"):
        run(base, task, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 4.5}, "rank must be an integer, got 4.5"),
        ({"epochs": 2.0}, "epochs must be an integer, got 2.0"),
        ({"limit": "3"}, "limit must be an integer, got '3'"),
        ({"rank": True}, "rank must be an integer, got True"),
        ({"seeds": True}, "seeds must be an integer, got True"),
        ({"seeds": [False]}, "seeds must be an integer, got False"),
        ({"seeds": 1.0}, "seeds must be an integer, got 1.0"),
        ({"seeds": [0, 1.5]}, "seeds must be an integer, got 1.5"),
        ({"max_length": 9.5}, "max_length must be an integer, got 9.5"),
        ({"batch_size": 2.5}, "batch_size must be an integer, got 2.5"),
    ],
)
def test_counts_are_whole(base, task, options, told):
    with pytest.raises(TypeError, match=rf"^\[probe\] {told}; pass a whole number"):
        run(base, task, **options)


@pytest.mark.parametrize("options", [{"rank": 3}, {"punctuation": "xpos"}], ids=str)
def test_options_of_trees_are_for_trees(base, task, options):
    pos = EdgeTask.of("pos", *map(from_tags, (task.train, task.dev)))
    [(name, value)] = options.items()
    message = rf"^\[probe\] {name} must be left out without structural tasks, got {value!r}; add"
    with pytest.raises(ValueError, match=message):
        probe(base, {"pos": pos}, layers="1", **options)


def test_a_task_has_its_own_name(base, task):
    with pytest.raises(ValueError, match="got 'structural' as 'trees' with limit None"):
        probe(base, {"trees": task}, **QUICK)


def test_models_of_two_tokenizers_are_compared_where_they_keep_the_same(base, checkpoint, task):
    from transformers import AutoTokenizer

    other = checkpoint("other", seed=1)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["catcat"])
    tokenizer.save_pretrained(other)
    done = run([base, other], task)
    assert len(done.provenance["tasks"]) == 2
    assert len(done.differences) == 4
    assert len(done.table[done.table["layer"] == "chain"]) == 4


def without_pieces_for(word, folder):
    """Turn a checkpoint's tokenizer into one that drops a word."""
    from tokenizers import normalizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rules = tokenizer.backend_tokenizer
    rules.normalizer = normalizers.Sequence([rules.normalizer, normalizers.Replace(word, "")])
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    PreTrainedTokenizerFast(tokenizer_object=rules, **special).save_pretrained(folder)
    return folder


def test_models_that_keep_other_sentences_have_a_picture_of_one_that_all_keep(
    checkpoint, task, tmp_path
):
    words = ("the", "cat", "sat", "on", "a", "mat")
    heads, labels = (0, *range(1, 6)), ("root", *["dep"] * 5)
    plain = Tree(words, ("X",) * 6, heads, labels, "", 1)
    with_hill = replace(plain, words=("hill", *words[:-1]))
    longer = Tree(("dog", *words), ("X",) * 7, (0, *range(1, 7)), ("root", *["dep"] * 6), "", 1)
    without = [without_pieces_for(lost, checkpoint(f"no-{lost}")) for lost in ("hill", "dog")]
    both = run(without, StructuralTask.of(task.train, [longer, with_hill, plain]))
    assert [own["words"] for own in both.pictures] == [list(words)] * 2
    both.save(tmp_path / "both")
    assert {"trees.svg", "distances.svg"} <= {path.name for path in (tmp_path / "both").iterdir()}
    assert "1 sentence with a word without a token. (" in " ".join(both.provenance["notes"])
    assert both.differences.empty
    none = run(without, StructuralTask.of(task.train, [longer, with_hill]))
    assert none.pictures == []
    note = "structural: no picture, for no dev sentence is kept for all models."
    assert [n.startswith(note) for n in none.provenance["notes"]].count(True) == 2
    none.save(tmp_path / "none")
    assert not (tmp_path / "none" / "trees.svg").exists()


def test_a_score_tells_how_many_correlations_it_is_the_mean_of(base, task):
    """A sentence of one and the same word has no correlations in the embeddings of no position."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(base)
    model.embeddings.position_embeddings.weight.data.zero_()
    model.save_pretrained(base)
    same = Tree(("cat",) * 6, ("X",) * 6, (0, 1, 1, 2, 3, 3), ("root", *["dep"] * 5), "", 1)
    plain = run(base, task, layers="0").table
    mixed = run(base, StructuralTask.of(task.train, [*task.dev, same]), layers="0")
    n = [t[t["layer"] == "0"].set_index("metric")["n"] for t in (plain, mixed.table)]
    assert (n[1] - n[0]).to_dict() == {"uuas": 5, "dspr": 0, "root_accuracy": 1, "nspr": 0}
    of = [f"structural: {count} rank corr" for count in ("6", "1")]
    told = [note[: len(start)] for start, note in zip(of, mixed.provenance["notes"], strict=True)]
    assert told == of
    # The lexical layer has the probes of layer 0.
    both = run(base, StructuralTask.of(task.train, [*task.dev, same]), layers="0,lexical")
    assert both.provenance["notes"] == mixed.provenance["notes"]


def test_a_run_is_saved_with_its_pictures(base, checkpoint, task, tmp_path):
    done = run([base, checkpoint("tuned", seed=1)], task, layers="all", controls="randomized")
    done.save(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"trees.json", "trees.svg", "distances.svg", "report.html", "figure.svg"} <= names
    again = Probing.load(tmp_path / "out")
    assert again.pictures == done.pictures
    assert [own["model"] for own in again.pictures] == list(done.table["model"].unique())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A sentence as the probes see it" in page
    assert "linear chain" in page
    assert 'aria-labelledby="trees-caption"' in page
    assert 'id="trees-caption"' in page
    again.write_report(tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text() == page
    [own, *_] = done.pictures
    sizes = [abs(len(tree.words) - 11) for tree in task.dev]
    chosen = task.dev[int(np.argmin(sizes))]
    assert tuple(own["words"]) == chosen.words
    arcs = {frozenset((i, head - 1)) for i, head in enumerate(chosen.heads) if head}
    dot = len(chosen.words) - 1
    assert {frozenset(edge) for edge in own["gold_edges"]} == {a for a in arcs if dot not in a}
    assert len(own["predicted_edges"]) == len(own["gold_edges"])
    found = done.table.query("probe == 'distance' and metric == 'uuas' and model == @own['model']")
    found = found[found["layer"] != "chain"].set_index("layer")["value"]
    assert found[own["layer"]] == found.max()


def test_punctuation_is_an_option_of_the_command(base, task, tmp_path):
    tagged = [replace(tree, xpos=(".", *["NN"] * (len(tree.words) - 1))) for tree in task.dev]
    write_treebank(tmp_path, tagged, tagged)
    argv = ["probe", str(base), "--task", f"structural={tmp_path}", "--epochs", "1", "--rank", "2"]
    argv += ["--layers", "1", "--punctuation", "xpos", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, argv)
    assert done.exit_code == 0, done.output
    found = Probing.load(tmp_path / "out")
    assert found.provenance["tasks"][0]["punctuation"] == "xpos"
    edges = found.table.query("metric == 'uuas'")["n"]
    assert set(edges) == {sum(max(len(tree.words) - 2, 0) for tree in tagged)}


def write_treebank(folder, train, dev):
    for part, own in (("train", train), ("dev", dev)):
        write_trees(own, folder / f"x-{part}.conllu")
    return folder


def test_the_command(base, task, tmp_path, monkeypatch):
    folder, out = tmp_path / "treebank", tmp_path / "out"
    folder.mkdir()
    write_treebank(folder, task.train, task.dev)
    argv = ["probe", str(base), "--task", f"structural={folder}", "--rank", "5", "--epochs", "2"]
    argv += ["--layers", "all", "--limit", "30", "--out", str(out)]
    done = CliRunner().invoke(cli.app, argv)
    assert done.exit_code == 0, done.output
    for text in ("distance, depth probes, %", "uuas", "nspr", "chain", "30 training and 25 dev"):
        assert text in done.output
    table = Probing.load(out).table
    assert set(table["probe"]) == {"distance", "depth"}
    again = CliRunner().invoke(cli.app, ["report", str(out)])
    assert again.exit_code == 0, again.output
    monkeypatch.setattr(sys, "argv", ["bertft", *argv, "--overwrite", "--rank", "99"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2


def test_structural_and_edge_tasks_go_together(base, task, tmp_path):
    folder = write_treebank(tmp_path, task.train, task.dev)
    tasks = {"structural": folder, "arcs": folder}
    done = probe(base, tasks, layers="1,mix", probe="edge", **QUICK)
    kinds = done.table.groupby("task")["probe"].unique().map(set).to_dict()
    assert kinds == {"structural": {"distance", "depth"}, "arcs": {"edge"}}
    assert list(done.summary["task"].unique()) == ["structural", "arcs"]


def test_trees_are_written_as_they_are_read(tmp_path):
    made = treebank(20, 3)
    made[1] = Tree(("a b", "c"), ("X", "Y"), (2, 0), ("nmod:poss", "root"), "s-2", 1, ("NN", ","))
    write_trees(made, tmp_path / "x.conllu")
    found = read_trees(tmp_path / "x.conllu")
    assert [(t.words, t.tags, t.heads, t.labels, t.id) for t in found] == [
        (t.words, t.tags, t.heads, t.labels, t.id) for t in made
    ]
    assert found[1].xpos == ("NN", ",")
    assert found[0].xpos == ("_",) * len(found[0].words)
    for word in ("a\tb", "a\nb"):
        bad = Tree((word,), ("X",), (0,), ("root",), "", 1)
        with pytest.raises(ValueError, match=r"^\[corpora\] fields of a word must be without tabs"):
            write_trees([bad], tmp_path / "y.conllu")


@pytest.mark.parametrize("domain", ["kitchen", "harbor"])
def test_the_miniature_has_trees(domain, tmp_path):
    made = sentences(domain, 500, seed=0)
    trees = dependency_trees(made)
    write_trees(trees, tmp_path / "x.conllu")
    # The reader refuses what is no tree with one root.
    assert [t.heads for t in read_trees(tmp_path / "x.conllu")] == [s.heads for s in made]
    for own in trees:
        root = own.heads.index(0)
        assert own.tags[root] not in ("PUNCT", "DET", "ADP", "CCONJ", "SCONJ", "AUX")
        children = {head - 1 for head in own.heads if head}
        for i, (tag, head) in enumerate(zip(own.tags, own.heads, strict=True)):
            if tag in ("DET", "ADP", "PUNCT", "AUX", "CCONJ", "SCONJ"):
                assert i not in children
            if tag == "DET":
                assert own.tags[head - 1] == "NOUN"
                assert head - 1 > i
            assert (own.labels[i] == "root") == (head == 0)


def test_the_miniature_is_probed(tmp_path):
    recipe = Recipe(
        layers=1, width=32, heads=2, intermediate=48, sentences=200, steps=20, batch_size=16
    )
    model = pretrained_miniature(recipe, tmp_path / "cache")
    parts = (dependency_trees(sentences("kitchen", 60, seed)) for seed in (0, 1))
    folder = write_treebank(tmp_path, *parts)
    done = probe(str(model), {"structural": folder, "arcs": folder}, rank=8, epochs=3, layers="all")
    assert np.isfinite(done.table["value"]).all()
    # Those of arcs are solved; only the structural ones are trained by Adam.
    [note] = done.provenance["notes"]
    assert note.startswith("Linear probes of single layers are solved")


PICTURE = {
    "model": "some/model",
    "layer": "3",
    "words": ["$x_1$", "saw", "her", "."],
    "kept": [True, True, True, False],
    "gold": [[0, 1, 2, 2], [1, 0, 1, 1], [2, 1, 0, 2], [2, 1, 2, 0]],
    "predicted": [[0, 1.5, 9, 2], [1.5, 0, 1, 1], [9, 1, 0, 2], [2, 1, 2, 0]],
    "gold_edges": [[0, 1], [1, 2]],
    "predicted_edges": [[1, 0], [0, 2]],
}


def test_arcs_of_both_trees_are_drawn():
    figure = tree_figure([PICTURE, PICTURE | {"model": "other/model"}])
    assert len(figure.axes) == 2
    assert svg_text(figure).count("$x_1$") == 2
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == [*PICTURE["words"], "some/model, layer 3"]
    [lexical] = tree_figure([PICTURE | {"layer": "lexical"}]).axes
    assert lexical.texts[-1].get_text() == "model, embeddings"
    ranges = [(arc.theta1, arc.theta2) for arc in ax.patches]
    above, below = (
        [arc for arc, own in zip(ax.patches, ranges, strict=True) if own == half]
        for half in ((0, 180), (180, 360))
    )
    assert len(above) == len(below) == 2
    # One edge is in both trees, whichever way round it is given.
    assert len({arc.get_edgecolor() for arc in ax.patches}) == 2
    colors, others = (sorted(arc.get_edgecolor() for arc in half) for half in (above, below))
    assert colors == others
    places = [text.get_position()[0] for text in ax.texts[:4]]
    ends = {(arc.center[0] - arc.width / 2, arc.center[0] + arc.width / 2) for arc in ax.patches}
    expected = {(places[0], places[1]), (places[1], places[2]), (places[0], places[2])}
    assert {tuple(np.round(end, 6)) for end in ends} == {tuple(np.round(e, 6)) for e in expected}
    # Halves of ellipses that begin above and below the words; an arc over another is twice as high.
    baseline = ax.texts[0].get_position()[1]
    [up], [down] = ({arc.center[1] - baseline for arc in half} for half in (above, below))
    assert up == pytest.approx(-down)
    assert up > 0
    by_width = sorted(below, key=lambda arc: arc.width)
    low, high = (arc.height for arc in by_width)
    assert {arc.height for arc in above} == {low}
    assert high == pytest.approx(2 * low)
    assert ax.texts[3].get_color() != ax.texts[0].get_color()


def test_words_of_any_characters_are_drawn():
    """XML forbids most control characters, and U+FFFE in whatever form."""
    odd = ["a\x0bb", "\ufffe", "\x1b[0m", "two\nlines"]
    pictures = [PICTURE | {"model": "mo\x0cdel", "words": odd}]
    for draw in (tree_figure, distance_figure):
        root = ElementTree.fromstring(svg_text(draw(pictures)))
        found = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"a b", " [0m", "two lines"} <= set(found)
        assert "mo del, layer 3" in found


def test_tables_of_distances_have_one_scale():
    figure = distance_figure([PICTURE])
    assert svg_text(figure).count("$x_1$") == 3
    tree, found, bar = figure.axes
    np.testing.assert_array_equal(tree.images[0].get_array(), PICTURE["gold"])
    np.testing.assert_array_equal(found.images[0].get_array(), PICTURE["predicted"])
    assert tree.images[0].get_clim() == found.images[0].get_clim() == (0, 2)
    assert [label.get_text() for label in tree.get_yticklabels()] == PICTURE["words"]
    assert found.get_title(loc="left") == "model, layer 3"
    assert bar.get_ylabel() == "arcs"


def test_a_single_word_is_drawn():
    alone = PICTURE | {"words": ["Yes"], "kept": [True], "gold": [[0]], "predicted": [[0]]}
    alone |= {"gold_edges": [], "predicted_edges": []}
    assert not tree_figure([alone]).axes[0].patches
    assert distance_figure([alone]).axes[0].images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("draw", [tree_figure, distance_figure])
def test_pictures_are_checked(draw):
    with pytest.raises(ValueError, match=rf"^\[{draw.__name__}\] sentences must be at least one"):
        draw([])
    lacking = {key: value for key, value in PICTURE.items() if key not in ("gold", "kept")}
    with pytest.raises(ValueError, match="got 2 without kept, gold; pass those of a run"):
        draw([PICTURE, lacking])
    other = PICTURE | {"model": "b", "words": PICTURE["words"][::-1]}
    with pytest.raises(ValueError, match=r"must be one and the same .* got others for .* and b; d"):
        draw([PICTURE, other])


def test_pictures_are_json(base, task):
    done = run(base, task)
    assert json.loads(json.dumps(done.pictures)) == done.pictures
