"""The readers of treebanks, sentence pairs and questions, from files and through `datasets`."""

import json

import pytest

from bertft.corpora.conllu import Tree, read_trees, universal
from bertft.corpora.hub import records
from bertft.corpora.nli import Pair, Pairs, read_pairs
from bertft.corpora.squad import Question, read_questions


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*objects):
    return "".join(json.dumps(fields) + "\n" for fields in objects)


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """Write the columns of a split to a folder that `datasets` reads, and return its path."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "made"
    folder.mkdir()

    def save(columns, split="train", **features):
        table = datasets.Dataset.from_dict(columns)
        for column, feature in features.items():
            table = table.cast_column(column, feature)
        table.to_parquet(folder / f"{split}.parquet")
        return folder

    return save


TREEBANK = """# newdoc id = d
# sent_id = a-1
# text = I don't
1\tI\t_\t_\tPRP\t_\t2\tnsubj:outer\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\t_\tAUX\t_\t_\t0\troot\t_\t_
3\tn't\t_\t_\t_\t_\t2\tadvmod\t_\t_
3.1\tgone\t_\t_\t_\t_\t_\t_\t_\t_

1\tA b\t_\t_\t_\t_\t0\troot\t_\t_
"""


def test_trees_are_those_annotated(tmp_path):
    expected = [
        Tree(
            ("I", "do", "n't"),
            ("_", "AUX", "_"),
            (2, 0, 2),
            ("nsubj:outer", "root", "advmod"),
            "a-1",
            4,
            ("PRP", "_", "_"),
        ),
        Tree(("A b",), ("_",), (0,), ("root",), "", 10, ("_",)),
    ]
    path = write(tmp_path / "x.conllu", TREEBANK)
    assert read_trees(path) == expected
    assert {tree.source for tree in read_trees(path)} == {str(path)}
    windows = "\ufeff" + TREEBANK.replace("\n", "\r\n")
    assert read_trees(str(write(tmp_path / "y.conllu", windows))) == expected


def test_a_sentence_at_the_end_needs_no_blank_line(tmp_path):
    (tree,) = read_trees(write(tmp_path / "x.conllu", TREEBANK.split("\n\n")[1].rstrip()))
    assert (tree.words, tree.line) == (("A b",), 1)


def test_universal_relations_have_no_subtype():
    assert [universal(label) for label in ("nmod:poss", "root", "obl:a:b")] == [
        "nmod",
        "root",
        "obl",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TREEBANK, "# sent_id = a-1\n\n", r"must hold at least one sentence, got none; check"),
        ("\tdo\t_", "\tdo", r"x.conllu, line 6 must have 10 tab-separated columns, got 9; mend"),
        ("\n3.1", "\n3,1", r"line 8 must have an id and a form, got '3,1' and 'gone'; mend"),
        ("\n3\t", "\n4\t", r"line 7 \(sentence 'a-1'\) must have the word id 3, got 4; number"),
        ("\n1\tA", "\n0\tA", r"x.conllu, line 10 must have the word id 1, got 0; number the"),
        (
            "_\t2\tadv",
            "_\t_\tadv",
            r"line 7 \(sentence 'a-1'\) must have a head from 0 to 3, got '_'",
        ),
        ("_\t2\tadv", "_\t4\tadv", r"line 7 .* must have a head from 0 to 3, got '4'; mend"),
        ("_\t2\tadv", "_\t-1\tadv", r"line 7 .* must have a head from 0 to 3, got '-1'; mend"),
        ("_\t2\tadv", "_\t2.5\tadv", r"line 7 .* must have a head from 0 to 3, got '2.5'; mend"),
        ("_\t2\tadv", "_\t" + "9" * 5000 + "\tadv", r"must have a head from 0 to 3, got '999"),
        ("\tadvmod\t", "\t_\t", r"line 7 \(sentence 'a-1'\) must have a relation .* got '_'; fill"),
        ("\tadvmod\t", "\t \t", r"line 7 .* must have a relation to its head, got ' '; fill"),
        (
            "_\t2\tadv",
            "_\t0\tadv",
            r"line 4 \(sentence 'a-1'\) must have one root, got 2 .*\[2, 3\]",
        ),
        ("_\t0\troot", "_\t1\troot", r"line 4 .* must have one root, got 0 words with head 0 \[\]"),
        ("\n2\tdo", "\n2.1\tdo", r"line 7 .* must have the word id 2, got 3"),
        ("\n2-3\t", "\n3-2\t", r"line 5 .* multi-word token from word 2 to one .* 3, .*, got 3-2;"),
        ("\n2-3\t", "\n2-1\t", r"line 5 .* multi-word token from word 2 to one .*, got 2-1; mend"),
        ("\n2-3\t", "\n2-4\t", r"line 5 .* multi-word token from word 2 to one .*, got 2-4; mend"),
        ("\n2-3\t", "\n1-3\t", r"line 5 .* multi-word token from word 2 to one .*, got 1-3; mend"),
        (
            "\n3\t",
            "\n3-3\tx" + "\t_" * 8 + "\n3\t",
            r"line 7 .* from word 3 to one of the 3, and no other there, got 3-3",
        ),
        ("\n3.1", "\n2.1", r"line 8 .* must have the empty node 3.1, got 2.1; number it by"),
        ("\n3.1", "\n3.2", r"line 8 .* must have the empty node 3.1, got 3.2; number it by"),
        ("\n1\tA", "\n0.1\tA", r"line 10 must have one root, got 0"),
        ("_\t2\tadv", "_\t3\tadv", r"line 4 .* must be a tree, got a cycle through word 3; mend"),
    ],
)
def test_bad_treebanks_are_refused(tmp_path, old, new, message):
    assert old in TREEBANK
    path = write(tmp_path / "x.conllu", TREEBANK.replace(old, new))
    with pytest.raises(ValueError, match=r"^\[corpora\] .*" + message):
        read_trees(path)


@pytest.mark.parametrize(
    ("heads", "word"), [((2, 3, 1, 0), 1), ((0, 1, 4, 3), 3), ((0, 3, 4, 5, 3), 3)]
)
def test_cycles_beside_the_root_are_found(tmp_path, heads, word):
    rows = [f"{n}\tw\t_\t_\t_\t_\t{head}\tdep\t_\t_\n" for n, head in enumerate(heads, start=1)]
    with pytest.raises(ValueError, match=f"got a cycle through word {word};"):
        read_trees(write(tmp_path / "x.conllu", "".join(rows)))


def test_trees_may_be_deep_and_crossing(tmp_path):
    heads = [*range(2, 3001), 0]
    rows = [f"{n}\tw\t_\t_\t_\t_\t{head}\tdep\t_\t_\n" for n, head in enumerate(heads, start=1)]
    (tree,) = read_trees(write(tmp_path / "x.conllu", "".join(rows)))
    assert list(tree.heads) == heads
    crossing = [3, 4, 0, 3]
    rows = [f"{n}\tw\t_\t_\t_\t_\t{head}\tdep\t_\t_\n" for n, head in enumerate(crossing, start=1)]
    (tree,) = read_trees(write(tmp_path / "x.conllu", "".join(rows)))
    assert list(tree.heads) == crossing


def test_treebanks_are_files(tmp_path):
    for path in (tmp_path / "none.conllu", tmp_path, "universal_dependencies/en_ewt:train"):
        with pytest.raises(
            FileNotFoundError, match="treebank must be an existing CoNLL-U file, got"
        ):
            read_trees(path)


EXPECTED = [Pair("a b", 'c "d', "neutral", 1), Pair("é", "\u2028", "entailment", 3)]


def renamed(pairs, names, labels=None):
    labels = labels or [pair.label for pair in pairs]
    return [
        dict(zip(names, (pair.premise, pair.hypothesis, label), strict=True))
        for pair, label in zip(pairs, labels, strict=True)
    ]


@pytest.mark.parametrize(
    "names",
    [("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label")],
    ids=lambda names: names[0],
)
@pytest.mark.parametrize(
    ("labels", "none"), [(None, "-"), ([1, 0], -1), (["1", "0"], "-1")], ids=repr
)
def test_pairs_of_json_lines(tmp_path, names, labels, none):
    first, second = renamed(EXPECTED, names, labels)
    text = lines(first, {**first, names[2]: none}, {**second, "label1": "neutral"}) + "\n"
    assert read_pairs(write(tmp_path / "x.jsonl", text)) == Pairs(EXPECTED, 1)


HEADER = "index\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"


def test_pairs_of_tables(tmp_path):
    table = (
        HEADER + '0\t(a)\t"a b\tc\tneutral\tcontradiction\n'
        "\n1\t\ta\tb\tneutral\t-\n2\t\t \u2028\tb\t\tneutral\n"
    )
    expected = Pairs([Pair('"a b', "c", "contradiction", 2), Pair(" \u2028", "b", "neutral", 5)], 1)
    assert read_pairs(write(tmp_path / "x.tsv", table)) == expected
    assert read_pairs(write(tmp_path / "y.tsv", table.replace("\n", "\r\n"))) == expected


FINE = {"premise": "a", "hypothesis": "b", "label": "neutral"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", r"pairs must be a .jsonl, .tsv file, got '.*x.csv'; convert it"),
        (
            "x.jsonl",
            "",
            r"x.jsonl must hold at least one pair with a label, got none and 0 without",
        ),
        (
            "x.jsonl",
            lines({**FINE, "label": -1}),
            r"at least one pair with a label, got none and 1 without; pass another",
        ),
        ("x.jsonl", lines(FINE) + "{a}\n", r"x.jsonl, line 2 must be JSON, got '{a}' \(Expecting"),
        ("x.jsonl", lines(FINE, [1]), "line 2 must be an object, got list; write one"),
        (
            "x.jsonl",
            lines({"text": "a", "label": 1}),
            r"line 1 must have premise, hypothesis, label or sentence1, sentence2, gold_label, got "
            r"\['label', 'text'\]; rename",
        ),
        (
            "x.jsonl",
            lines({"premise": "a", "hypothesis": "b"}),
            r"line 1 must have .* got \['hypothesis', 'premise'\]; rename",
        ),
        (
            "x.jsonl",
            lines({"premise": "a", "label": 0}),
            r"line 1 must have a string 'hypothesis', got fields \['label', 'premise'\]; mend",
        ),
        ("x.jsonl", lines({**FINE, "premise": None}), "must have a string 'premise', got None"),
        *(
            (
                "x.jsonl",
                lines(FINE, {**FINE, "label": label}),
                rf"line 2 must have one of .* got {found}",
            )
            for label, found in (
                ("Neutral", "'Neutral'"),
                (3, "3"),
                (-2, "-2"),
                (True, "True"),
                (1.0, r"1\.0"),
                (None, "None"),
                (["neutral"], r"\['neutral'\]; mend the label"),
            )
        ),
        ("x.tsv", "", r"x.tsv must hold at least one pair with a label"),
        ("x.tsv", HEADER + "0\t\ta\tb\tneutral\n", "x.tsv, line 2 must have 6 tab-.* got 5; mend"),
        ("x.tsv", HEADER + "0\t\ta\tb\tneutral\t\n", r"line 2 must have one of .*, got ''; mend"),
        ("x.tsv", "sentence1\tsentence2\na\tb\n", r"line 2 must have .* got \['sentence1', 's"),
        ("x.tsv", b"sentence1\xff", "x.tsv must be UTF-8"),
    ],
)
def test_bad_pairs_are_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=r"^\[corpora\] .*" + message):
        read_pairs(write(tmp_path / name, text))


CONTEXT = "Ünder the hill 😀 the cat sat."


def squad(*questions, context=CONTEXT):
    return json.dumps(
        {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}
    )


def asked(name, *answers, **fields):
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "Where?", "answers": found, **fields}


def test_questions_of_a_file(tmp_path):
    document = json.loads(squad(asked("a", ("the", 6), ("cat", 21)), context=CONTEXT))
    document["data"] += json.loads(squad(asked("b", ("x", 0)), context="x"))["data"]
    read = read_questions(write(tmp_path / "x.json", json.dumps(document, indent=1)))
    assert read.questions == [
        Question("a", "Where?", CONTEXT, (("the", 6), ("cat", 21))),
        Question("b", "Where?", "x", (("x", 0),)),
    ]
    assert read.skipped == 0


GOOD = asked("g", ("cat", 21))


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (asked("b", ("the", 6), ("cat", 22)), r"'cat' at character 22, where 'at ' stands"),
        (asked("b", ("sat.", -4)), r"'sat.' at character -4, where '' stands"),
        (asked("b", ("cat", 999)), r"'cat' at character 999, where '' stands"),
        (asked("b", ("", 3)), r"'' at character 3, where '' stands"),
        (asked("b"), r"none, as SQuAD 2.0 has for questions that are impossible"),
        (asked("b", ("cat", 21), is_impossible=True), r"none, as SQuAD 2.0 has"),
    ],
)
def test_bad_answers_are_refused_or_counted(tmp_path, bad, found):
    path = write(tmp_path / "x.json", squad(GOOD, bad))
    message = (
        r"^\[corpora\] .*x.json, question 2 \(id 'b'\) must have its answers in the context, got "
        rf"{found}.*; mend it, or pass skip_bad \(--skip-bad\)"
    )
    with pytest.raises(ValueError, match=message):
        read_questions(path)
    read = read_questions(path, skip_bad=True)
    assert [question.id for question in read.questions] == ["g"]
    assert read.skipped == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"data": x}', r"x.json, line 2 must be JSON, got 'x}' \(Expecting value\); mend"),
        ("[]", r"x.json must be SQuAD JSON, .* got no list of objects 'data' in list; convert"),
        ('{"version": 1}', r"got no list of objects 'data' in \['version'\]"),
        ('{"data": [3]}', r"got no list of objects 'data' in \['data'\]"),
        ('{"data": [{}]}', r"got no list of objects 'paragraphs' in \[\]"),
        ('{"data": [{"paragraphs": [{"context": ""}]}]}', r"objects 'qas' in \['context'\]"),
        (
            squad(),
            "x.json must hold at least one question with its answer, got none and 0 left out",
        ),
        (squad(asked("b")), "at least one question with its answer, got none and 1 left out; pass"),
        (squad(GOOD, GOOD), "question 2 must have an id of its own, got 'g' again; pass"),
        (squad(GOOD, asked("g")), "question 2 must have an id of its own, got 'g' again"),
        (squad(GOOD, asked(3, ("cat", 21))), "question 2 must have a string 'id', got 3; mend"),
        (squad(asked("b", question=None)), r"1 \(id 'b'\) must have a string 'question', got None"),
        (squad(GOOD, context=None), r"1 \(id 'g'\) must have a string 'context', got None"),
        (
            squad({"id": "b", "answers": []}),
            r"question 1 \(id 'b'\) must have a string 'question', got fields \['answers', 'con",
        ),
        *(
            (squad({**GOOD, "answers": answers}), r"1 \(id 'g'\) must have 'answers' with a string")
            for answers in (
                None,
                3,
                ["cat"],
                [{"text": "cat"}],
                [{"text": "cat", "answer_start": "21"}],
                [{"text": 3, "answer_start": 21}],
                [{"text": "cat", "answer_start": True}],
                {"text": ["cat"], "answer_start": []},
            )
        ),
    ],
)
def test_bad_question_files_are_refused(tmp_path, text, message):
    path = write(tmp_path / "x.json", text)
    with pytest.raises(ValueError, match=r"^\[corpora\] .*" + message):
        read_questions(path, skip_bad=True)


def test_pairs_of_a_data_set(parquet, capfd):
    from datasets import ClassLabel

    # Names of the classes count, not their order.
    columns = {"premise": ["a", "b", "c"], "hypothesis": ["d", "e", "f"], "label": [0, -1, 2]}
    folder = parquet(columns, label=ClassLabel(names=["contradiction", "neutral", "entailment"]))
    capfd.readouterr()
    expected = [Pair("a", "d", "contradiction", 1), Pair("c", "f", "entailment", 3)]
    assert read_pairs(f"{folder}:train") == Pairs(expected, 1)
    assert read_pairs(f"{folder}:train[:1]") == Pairs(expected[:1], 0)
    assert capfd.readouterr() == ("", "")


def test_a_relative_folder_may_be_named_as_a_loader(parquet, monkeypatch):
    folder = parquet({"premise": ["a"], "hypothesis": ["b"], "label": [2]})
    folder.rename(folder.parent / "json")
    monkeypatch.chdir(folder.parent)
    for name in ("json:train", "./json:train"):
        assert read_pairs(name).pairs == [Pair("a", "b", "contradiction", 1)]


def test_rows_of_a_data_set_are_checked(parquet):
    folder = parquet({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [1, 3]})
    with pytest.raises(ValueError, match=r"made:train, row 2 must have one of .*, got 3; mend"):
        read_pairs(f"{folder}:train")


def test_classes_of_a_data_set_are_checked(parquet):
    from datasets import ClassLabel

    columns = {"premise": ["a"], "hypothesis": ["c"], "label": [0]}
    folder = parquet(columns, label=ClassLabel(names=["yes", "no"]))
    with pytest.raises(ValueError, match=r"made:train, row 1 must have one of .*, got 'yes'; mend"):
        read_pairs(f"{folder}:train")


def test_questions_of_a_data_set(parquet):
    answers = [{"text": ["cat"], "answer_start": [21]}, {"text": ["cat"], "answer_start": [20]}]
    columns = {"id": ["a", "b"], "context": [CONTEXT] * 2, "question": ["Who?", "?"]}
    folder = parquet({**columns, "answers": answers}, split="validation")
    read = read_questions(f"{folder}:validation", skip_bad=True)
    assert read.questions == [Question("a", "Who?", CONTEXT, (("cat", 21),))]
    assert read.skipped == 1
    with pytest.raises(ValueError, match=r"made:validation, row 2 \(id 'b'\) must have its ans"):
        read_questions(f"{folder}:validation")


def test_rows_are_numbered_across_batches(parquet):
    folder = parquet({"n": list(range(2345))})
    found = list(records(f"{folder}:train", iter))
    assert [record.fields["n"] for record in found] == list(range(2345))
    assert [record.number for record in found] == list(range(1, 2346))
    assert found[-1].where == f"{folder}:train, row 2345"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("nyu-mll/multi_nli:validation_matched", ("nyu-mll/multi_nli", None, "validation_matched")),
        ("nyu-mll/glue/mnli:train", ("nyu-mll/glue", "mnli", "train")),
        ("squad:train[:10%]", ("squad", None, "train[:10%]")),
    ],
)
def test_names_of_data_sets(parquet, monkeypatch, name, asked):
    import datasets

    calls = []

    def load(place, config, **options):
        calls.append((place, config, options))
        return datasets.Dataset.from_dict({"n": [1]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [record.where for record in records(name, iter)] == [f"{name}, row 1"]
    assert calls == [(*asked[:2], {"split": asked[2]})]


def test_a_file_goes_before_a_data_set(tmp_path):
    path = write(tmp_path / "x:train", "a")
    assert records(path, lambda found: [found]) == [path]


@pytest.mark.parametrize("reader", [read_pairs, read_questions], ids=lambda reader: reader.__name__)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.json", "data must be an existing file or a data set as NAME:SPLIT, got 'none.json'"),
        ("https://a/b", "data must be an existing file or a data set as NAME:SPLIT, got 'https"),
        ("./none:train", "data must be an existing folder before its split, got './none'; check"),
        ("/none/x:train", "data must be an existing folder before its split, got '/none/x'"),
        ("a/b/c/d:train", "data must be an existing folder before its split, got 'a/b/c/d'"),
        (
            "nobody/none:train",
            "nobody/none:train must be a file, or a data set that can be loaded, got",
        ),
        ("nobody/none/x:train", r"got: .*offline.*; check .* \(HF_HUB_OFFLINE\), or pass a file"),
    ],
)
def test_what_cannot_be_found_is_named(tmp_path, monkeypatch, parquet, reader, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"(?i)^\[corpora\] .*" + message):
        reader(name)


def test_splits_that_are_not_there_are_named(tmp_path, parquet):
    folder = parquet({"premise": ["a"], "hypothesis": ["b"], "label": [2]})
    message = r"made:dev must be a file, or a data set .* got: Unknown split \"dev\""
    with pytest.raises(ValueError, match=message):
        read_pairs(f"{folder}:dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty:dev must be a file, or a data set"):
        read_pairs(f"{tmp_path / 'empty'}:dev")
    with pytest.raises(FileNotFoundError, match=r"must name a split where it is a folder"):
        read_pairs(folder)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "sentences", "words"),
    [
        ("ud_english_ewt/en_ewt-ud-train", 12544, 204577),
        ("ud_english_ewt/en_ewt-ud-dev", 2001, 25147),
        ("ud_english_pud/en_pud-ud-test", 1000, 21180),
        ("ud_english_atis/en_atis-ud-dev", 572, 6644),
        ("ud_english_atis/en_atis-ud-test", 586, 6580),
    ],
)
def test_real_treebanks(shared, name, sentences, words):
    import conllu

    path = shared / "data" / f"{name}.conllu"
    trees = read_trees(path)
    assert len(trees) == sentences
    assert sum(len(tree.words) for tree in trees) == words
    parsed = conllu.parse(path.read_text(encoding="utf-8")[:500_000].rpartition("\n\n")[0])
    for tree, sentence in zip(trees, parsed, strict=False):
        tokens = [token for token in sentence if isinstance(token["id"], int)]
        assert tree.id == sentence.metadata["sent_id"]
        assert tree.words == tuple(token["form"] for token in tokens)
        assert tree.tags == tuple(token["upos"] for token in tokens)
        assert tree.heads == tuple(token["head"] for token in tokens)
        assert tree.labels == tuple(token["deprel"] for token in tokens)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "count"),
    [("train_subset", 12808), ("dev_matched", 9815), ("dev_mismatched_1000", 1000)],
)
def test_real_pairs(shared, name, count):
    read = read_pairs(shared / "data" / "mnli" / f"{name}.jsonl")
    assert (len(read.pairs), read.unlabeled) == (count, 0)


@pytest.mark.real
@pytest.mark.parametrize(("name", "count"), [("train_subset", 4000), ("dev", 10570)])
def test_real_questions(shared, name, count):
    read = read_questions(shared / "data" / "squad" / f"{name}.json")
    assert (len(read.questions), read.skipped) == (count, 0)
