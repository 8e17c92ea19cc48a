"""Edge-probing records, from files, treebanks and memory, and the tasks made of them."""

import json
import re
from collections import Counter

import pytest

from bertft.corpora.conllu import Tree, read_trees
from bertft.corpora.edges import Record, Target, checked, from_arcs, from_tags, read_records
from bertft.probing.tasks import EdgeTask
from tests.test_task_corpora import lines, write


def said(*labels, text="the old cat", span=(0, 1), second=None):
    """A line with one target for each of `labels`."""
    spans = {"span1": list(span)} | ({"span2": list(second)} if second else {})
    return {"text": text, "targets": [{**spans, "label": label} for label in labels]}


def test_records_of_a_file(tmp_path):
    first = {
        "text": "the old  cat",
        "targets": [
            {"span1": [0, 1], "span2": [1, 4], "label": "x", "score": 3},
            {"span1": [3, 4], "span2": [3, 4], "label": ["y", "x"]},
        ],
        "info": {"id": 7},
    }
    second = {"text": " sat", "targets": []}
    path = write(tmp_path / "x.jsonl", "\ufeff" + lines(first) + "\n" + lines(second))
    expected = [
        Record(
            ("the", "old", "", "cat"),
            (Target(((0, 1), (1, 4)), ("x",)), Target(((3, 4), (3, 4)), ("y", "x"))),
        ),
        Record(("", "sat"), ()),
    ]
    assert read_records(path) == expected
    assert read_records(str(path)) == expected


def test_a_span_that_is_null_is_none(tmp_path):
    line = said("x")
    line["targets"][0]["span2"] = None
    (record,) = read_records(write(tmp_path / "x.jsonl", lines(line)))
    assert record.targets == (Target(((0, 1),), ("x",)),)


GOOD = said("x")


def bad(**fields):
    return {**GOOD, "targets": [{**GOOD["targets"][0], **fields}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"x.jsonl must hold at least one target, got none in 0 sentences; pass another file"),
        (lines(said(), said()), r"at least one target, got none in 2 sentences"),
        (lines(GOOD) + "{a}\n", r"x.jsonl, line 2 must be JSON, got '{a}' \(Expecting .*; write"),
        (lines(GOOD, [1]), r"x.jsonl, line 2 must be an object, got list; write one"),
        (b"\xff", r"x.jsonl must be UTF-8, got byte 0xff at offset 0"),
        (lines({"targets": []}), r"line 1 must have a string 'text', got fields \['targets'\]"),
        (lines({**GOOD, "text": 3}), "line 1 must have a string 'text', got 3; mend"),
        (lines({**GOOD, "text": "\ud800"}), "line 1 must have whole characters in 'text', got"),
        (lines({**GOOD, "text": " "}), "line 1 must have a text with a word, got ' '; leave it"),
        (
            lines(GOOD, {"text": "a"}),
            r"line 2 must have a list of objects 'targets', got fields \['text'\]; mend",
        ),
        (lines({**GOOD, "targets": {}}), "must have a list of objects 'targets', got {}; mend"),
        (lines({**GOOD, "targets": [3]}), r"must have a list of objects 'targets', got \[3\]"),
        *(
            (
                lines(GOOD, bad(span1=span)),
                rf"line 2 \(target 1\) must have two whole numbers as 'span1', got {found}; mend",
            )
            for span, found in (
                (None, "None"),
                (3, "3"),
                ([0], r"\[0\]"),
                ([0, 1, 2], r"\[0, 1, 2\]"),
                ([0, 1.0], r"\[0, 1\.0\]"),
                ([0, "1"], r"\[0, '1'\]"),
                ([0, True], r"\[0, True\]"),
                ({"0": 1}, r"{'0': 1}"),
            )
        ),
        *(
            (
                lines(bad(span1=span)),
                r"line 1 \(target 1\) must have a 'span1' of a word or more within the 3 words of "
                rf"its text, got \[{span[0]}, {span[1]}\]; give the first word, from 0,",
            )
            for span in ([1, 1], [2, 1], [-1, 1], [0, 4], [3, 4])
        ),
        (lines(bad(span2="b")), r"\(target 1\) must have two whole numbers as 'span2', got 'b'"),
        (lines(bad(span2=[3, 3])), r"must have a 'span2' of a word or more .* got \[3, 3\]"),
        *(
            (
                lines(said("x", label)),
                rf"line 1 \(target 2\) must have a label, got {found}; mend the target, or",
            )
            for label, found in (
                (None, r"\[\]"),
                ([], r"\[\]"),
                ("", r"\[''\]"),
                (" ", r"\[' '\]"),
                (["x", ""], r"\['x', ''\]"),
            )
        ),
        (
            lines({"text": "a", "targets": [{"span1": [0, 1]}]}),
            r"line 1 \(target 1\) must have a label, got \[\]",
        ),
        *(
            (
                lines(said(label)),
                rf"\(target 1\) must have a string or a list of strings 'label', got {found}; mend",
            )
            for label, found in ((1, "1"), (True, "True"), ([1], r"\[1\]"), ({"x": 1}, "{'x': 1}"))
        ),
        (lines(said(["x", "y", "x"])), r"must have each label once, got \['x', 'y', 'x'\]; leave"),
        (
            lines(said("x", "x"), said("x", second=(1, 2))),
            r"line 2 \(target 1\) must have 1 spans as the first target, got 2; give every"
            r" target a 'span2', or none",
        ),
        (
            lines(said(), said("x", second=(1, 2)), GOOD),
            r"line 3 \(target 1\) must have 2 spans as the first target, got 1",
        ),
    ],
)
def test_bad_records_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=r"^\[corpora\] .*" + message):
        read_records(write(tmp_path / "x.jsonl", text))


def test_records_are_files(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl", "squad:train"):
        message = r"^\[corpora\] records must be an existing JSON lines file, got '.*'; check the"
        with pytest.raises(FileNotFoundError, match=message):
            read_records(path)


@pytest.mark.parametrize("spans", [(), ((0, 1), (0, 1), (0, 1))], ids=len)
def test_records_from_memory_are_checked(spans):
    message = re.escape(f"[corpora] here (target 1) must have 1 or 2 spans, got {len(spans)};")
    with pytest.raises(ValueError, match=message):
        checked("memory", [("here", Record(("a",), (Target(spans, ("x",)),)))])


TREE = Tree(
    ("I", "don't", "go"), ("PRON", "AUX", "VERB"), (3, 3, 0), ("nsubj:outer", "aux", "root"), "s", 4
)


def test_records_of_tags_and_of_arcs():
    assert from_tags([TREE]) == [
        Record(
            TREE.words,
            (
                Target(((0, 1),), ("PRON",)),
                Target(((1, 2),), ("AUX",)),
                Target(((2, 3),), ("VERB",)),
            ),
        )
    ]
    assert from_arcs([TREE]) == [
        Record(
            TREE.words,
            (
                Target(((0, 1), (2, 3)), ("nsubj:outer",)),
                Target(((1, 2), (2, 3)), ("aux",)),
                Target(((2, 3), (2, 3)), ("root",)),
            ),
        )
    ]


@pytest.mark.parametrize("tag", ["_", "", " "])
@pytest.mark.parametrize(("name", "where"), [("s", "line 4 (sentence 's')"), ("", "line 4")])
def test_words_without_a_tag_are_refused(tag, name, where):
    tree = Tree(("a", "b"), ("X", tag), (0, 1), ("root", "dep"), name, 4, source="x.conllu")
    message = (
        f"[corpora] x.conllu, {where} must have a part of speech for each word, got {tag!r} for "
        "'b'; fill the column UPOS."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        from_tags([tree])


def files(folder, train, dev):
    write(folder / "train.jsonl", lines(*train))
    write(folder / "dev.jsonl", lines(*dev))
    return folder


def test_a_task_of_files(tmp_path):
    train = [said("b", "c"), said("a"), said()]
    dev = [said("a", "d", "d"), said(["b", "e"])]
    task = EdgeTask.read("my-task_1", files(tmp_path, train, dev))
    assert (task.name, task.labels, task.spans) == ("my-task_1", ("a", "b", "c"), 1)
    assert task.exclusive
    assert task.unknown == {"d": 2, "e": 1}
    assert task.scored == (True, True, True)
    assert task.train == tuple(read_records(tmp_path / "train.jsonl"))
    assert task.dev == tuple(read_records(tmp_path / "dev.jsonl"))
    assert EdgeTask.of("my-task_1", iter(task.train), iter(task.dev)) == task
    assert not EdgeTask.of("x", task.dev, task.train).exclusive


RECORDS = tuple(
    Record(("the", "old", "cat"), (Target(((i, i + 1),), (label,)),))
    for i, label in enumerate("ab")
)


def task_of(*labels):
    records = [Record(("a",), (Target(((0, 1),), (label,)),)) for label in labels]
    return EdgeTask.of("x", records, records[:1])


def test_labels_that_are_not_scored():
    coreference = task_of("1", "0")
    assert dict(zip(coreference.labels, coreference.scored, strict=True)) == {"0": False, "1": True}
    assert coreference.scores("2")
    assert task_of("Other", "x", "other").scored == (False, True, True)
    assert not task_of("x", "y").scores("Other")
    assert task_of("0", "1", "2").scored == (True, True, True)
    assert task_of("0", "x").scored == (True, True)


def test_fingerprints_tell_all_content_apart():
    first, second = RECORDS
    target = first.targets[0]
    changes = [
        (RECORDS, RECORDS),
        (RECORDS, RECORDS[:1]),
        (RECORDS, ()),
        ((*RECORDS, first), RECORDS[1:]),
        ((second, first), RECORDS),
        ((first, Record(("the", "new", "cat"), second.targets)), RECORDS),
        ((first, Record(second.words, (*second.targets, target))), RECORDS),
        ((first, Record(second.words, (Target(((2, 3),), ("b",)),))), RECORDS),
        ((first, Record(second.words, (Target(((1, 2),), ("c",)),))), RECORDS),
        ((first, Record(second.words, (Target(((1, 2),), ("b", "c")),))), RECORDS),
    ]
    found = [EdgeTask.of("x", train, dev or [second]).fingerprint for train, dev in changes]
    assert len(set(found)) == len(found)
    assert EdgeTask.of("y", RECORDS, RECORDS).fingerprint == found[0]


def test_a_limit_draws_sentences_in_their_order(tmp_path):
    lines_ = [said("ab"[n % 2], text=f"w{n} b") for n in range(400)] + [said()] * 400
    folder = files(tmp_path, lines_, lines_)
    whole, drawn = EdgeTask.read("x", folder), EdgeTask.read("x", folder, limit=100)
    assert (len(whole.train), len(drawn.train), drawn.dev) == (800, 100, whole.dev)
    numbers = [int(record.words[0][1:]) for record in drawn.train]
    assert numbers == sorted(set(numbers))
    # Quarters of a uniform draw hold 25 of 100 each, with a standard deviation of 3.8.
    assert all(10 < count < 40 for count in Counter(n // 100 for n in numbers).values())
    assert EdgeTask.read("x", folder, limit=100) == drawn
    assert drawn.fingerprint != whole.fingerprint
    assert len(EdgeTask.read("x", folder, limit=10**9).train) == 400


TREEBANK = (
    "1\tthe\t_\tDET\t_\t_\t2\tdet\t_\t_\n2\tcat\t_\tNOUN\t_\t_\t0\troot\t_\t_\n\n"
    "1\tcats\t_\tNOUN\t_\t_\t2\tnsubj\t_\t_\n2\tsat\t_\tVERB\t_\t_\t0\troot\t_\t_\n"
)


@pytest.fixture
def treebank(tmp_path):
    write(tmp_path / "en-ud-train.conllu", TREEBANK)
    write(tmp_path / "en-ud-dev.conllu", TREEBANK.replace("nsubj", "nsubj:pass"))
    write(tmp_path / "en-ud-test.conllu", "")
    return tmp_path


def test_tasks_of_treebanks(treebank):
    pos, arcs = EdgeTask.read("pos", treebank), EdgeTask.read("arcs", str(treebank), limit=5)
    assert (pos.labels, pos.spans) == (("DET", "NOUN", "VERB"), 1)
    assert (arcs.labels, arcs.spans, arcs.unknown) == (
        *(("det", "nsubj", "root"), 2),
        {"nsubj:pass": 1},
    )
    trees = read_trees(treebank / "en-ud-train.conllu")
    assert pos.train == tuple(from_tags(trees))
    assert arcs.train == tuple(from_arcs(trees))


def test_treebanks_of_tasks_are_told_in_errors(treebank):
    write(treebank / "en-ud-dev.conllu", TREEBANK.replace("VERB", "_"))
    message = r"^\[corpora\] .*en-ud-dev.conllu, line 4 must have a part of speech .* got '_' for"
    with pytest.raises(ValueError, match=message):
        EdgeTask.read("pos", treebank)
    EdgeTask.read("arcs", treebank)


@pytest.mark.parametrize(
    ("names", "task", "error", "message"),
    [
        (
            ["train.jsonl", "x.txt"],
            "x",
            FileNotFoundError,
            r"one file dev.jsonl, got 0 among \['train.jsonl', 'x.txt'\]; pass a folder",
        ),
        ([], "x", FileNotFoundError, r"one file train.jsonl, got 0 among \[\]"),
        (
            ["train.jsonl", "dev.jsonl"],
            "pos",
            FileNotFoundError,
            r"one file \*train\*.conllu, got 0 among \['dev.jsonl', 'train.jsonl'\]",
        ),
        (
            ["a-train.conllu", "a-dev.conllu", "b-dev.conllu", "x.txt"],
            "arcs",
            ValueError,
            r"one file \*dev\*.conllu, got 2 among \['a-dev.conllu', 'b-dev.conllu'\]; pass",
        ),
    ],
)
def test_folders_without_their_files_are_refused(tmp_path, names, task, error, message):
    for name in names:
        write(tmp_path / name, "")
    with pytest.raises(
        error, match=rf"^\[EdgeTask\] {re.escape(str(tmp_path))} must hold {message}"
    ):
        EdgeTask.read(task, tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    message = r"^\[EdgeTask\] folder of x must exist, got '.*none'; check the path"
    with pytest.raises(FileNotFoundError, match=message):
        EdgeTask.read("x", tmp_path / "none")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a.b", "x\n"])
def test_names_are_checked(tmp_path, name):
    message = re.escape(
        f"[EdgeTask] name must be of letters, digits, - and _, got {name!r}; rename the task."
    )
    for make in (lambda: EdgeTask.read(name, tmp_path), lambda: EdgeTask.of(name, [], [])):
        with pytest.raises(ValueError, match=message):
            make()


def test_structural_is_not_an_edge_task(tmp_path):
    message = r"^\[EdgeTask\] name must not be 'structural', which stands for .* rename the task"
    with pytest.raises(ValueError, match=message):
        EdgeTask.read("structural", tmp_path)
    with pytest.raises(ValueError, match=message):
        EdgeTask.of("structural", RECORDS, RECORDS)


@pytest.mark.parametrize("limit", [0, -3])
def test_limits_are_checked(tmp_path, limit):
    message = rf"^\[EdgeTask\] limit must be at least 1, got {limit}; pass None for all sentences"
    with pytest.raises(ValueError, match=message):
        EdgeTask.read("x", tmp_path, limit=limit)


TWO = (Record(("a",), (Target(((0, 1), (0, 1)), ("a",)),)),)


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (
            RECORDS[:1],
            RECORDS,
            r"\[EdgeTask\] training records of x must have two labels or more, got \['a'\]; pass",
        ),
        (
            RECORDS,
            TWO,
            r"\[EdgeTask\] dev records of x must have targets with 1 spans as its training "
            r"records, got 2; pass files of one task",
        ),
        ((), RECORDS, r"\[corpora\] training records of x must hold at least one target, got none"),
        (RECORDS, (), r"\[corpora\] dev records of x must hold at least one target, got none in 0"),
        (
            RECORDS,
            (RECORDS[0], Record(("a",), RECORDS[1].targets)),
            r"\[corpora\] x, dev record 2 \(target 1\) must have a 'span1' .* got \[1, 2\]; give",
        ),
        (
            (*RECORDS, *TWO),
            RECORDS,
            r"\[corpora\] x, training record 3 \(target 1\) must have 1 spans as the first",
        ),
    ],
)
def test_records_that_make_no_task_are_refused(train, dev, message):
    with pytest.raises(ValueError, match="^" + message):
        EdgeTask.of("x", train, dev)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "train", "dev", "labels", "spans", "exclusive", "unscored"),
    [
        ("ner_wnut17", 1975, 836, 6, 1, True, set()),
        ("relations_semeval2010", 8000, 2717, 19, 2, True, {"Other"}),
        ("srl_ewt", 9682, 9435, 44, 2, True, set()),
        ("spr_uds", 5476, 733, 18, 2, False, set()),
        ("coref_gap", 4000, 908, 2, 2, True, {"0"}),
    ],
)
def test_real_tasks(shared, name, train, dev, labels, spans, exclusive, unscored):
    folder = shared / "data" / "edges" / name
    task = EdgeTask.read(name, folder)
    assert [sum(len(r.targets) for r in part) for part in (task.train, task.dev)] == [train, dev]
    assert (len(task.labels), task.spans, task.exclusive) == (labels, spans, exclusive)
    assert {label for label in task.labels if not task.scores(label)} == unscored
    assert sum(task.unknown.values()) == (9 if name == "srl_ewt" else 0)
    raw = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()]
    assert [" ".join(record.words) for record in task.dev] == [line["text"] for line in raw]


@pytest.mark.real
def test_real_treebanks_are_tasks(shared):
    pos, arcs = (
        EdgeTask.read(name, shared / "data" / "ud_english_ewt", limit)
        for name, limit in (("pos", None), ("arcs", 500))
    )
    assert [sum(len(r.targets) for r in part) for part in (pos.train, pos.dev)] == [204577, 25147]
    assert (len(pos.labels), pos.unknown, len(arcs.train)) == (17, {}, 500)
