"""Files, tables, data sets and standard input as corpora; pairs of texts, and rows by segment."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import bertft
from bertft.checkpoints import load_encoder
from bertft.corpora import Corpus, Text, corpora_of, read
from bertft.traces import inference
from tests.test_comparison import nudge, run, values
from tests.test_pairing import pair_of

TEXTS = ["the cat sat on a mat", 'a dog, an "old" dog', "red boats\nran under hills"]
PAIRS = [("the cat sat", "a cat sat"), ("old boats ran .", "a dog played on"), ("a hill", "red")]


def fingerprint(texts):
    return Corpus.of("x", texts).fingerprint


SINGLES = fingerprint([Text.of(text) for text in TEXTS])
TWO = fingerprint([pair_of(*pair) for pair in PAIRS])


def lines(*objects):
    return "".join(json.dumps(fields) + "\n" for fields in objects)


def csv_of(*rows):
    def quoted(field):
        return '"' + field.replace('"', '""') + '"'

    return "".join(",".join(map(quoted, row)) + "\n" for row in rows)


def save(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def squad(version="1.1", **answers):
    paragraphs = [
        {"context": context, "qas": [{"id": question, "question": question, **answers}]}
        for question, context in PAIRS
    ]
    return json.dumps({"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("premise", "hypothesis"),
        ("sentence1", "sentence2"),
        ("question", "context"),
        ("question1", "question2"),
    ],
)
def test_pairs_are_known_by_their_fields(tmp_path, first, second):
    records = [{first: a, second: b, "label": 1} for a, b in PAIRS]
    for path in (
        save(tmp_path, "x.jsonl", lines(*records)),
        save(tmp_path, "x.csv", csv_of((first, second), *PAIRS)),
        save(tmp_path, "x.tsv", f"{first}\t{second}\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS)),
    ):
        assert read(path).fingerprint == TWO
    [memory] = corpora_of(records)
    assert memory.fingerprint == TWO
    assert [len(text.segments) for text in memory.texts] == [2, 2, 2]


def test_questions_of_squad_are_pairs_whatever_their_answers(tmp_path):
    path = save(tmp_path, "x.json", squad())
    assert read(path).fingerprint == TWO
    assert read(save(tmp_path, "y.json", squad("v1.0", answers=[]))).fingerprint == TWO
    message = r"y.json must be SQuAD 1.1, got version 'v2.0', whose questions .*; convert it to 1.1"
    with pytest.raises(ValueError, match=message):
        read(save(tmp_path, "y.json", squad("v2.0", is_impossible=True)))


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_tables_of_texts(tmp_path, mark, ends):
    rows = [("id", "text"), *((str(i), text) for i, text in enumerate(TEXTS))]
    table = mark + csv_of(*rows).replace("\n", ends).encode()
    path = save(tmp_path, "x.csv", table)
    assert read(path).fingerprint == SINGLES
    assert corpora_of(path, "text")[0].fingerprint == SINGLES
    records = [{"text": text} for text in TEXTS]
    assert read(save(tmp_path, "x.jsonl", mark + lines(*records).encode())).fingerprint == SINGLES
    long = "a" * 200_000
    [text] = read(save(tmp_path, "y.csv", f"text\n{long}\n")).texts
    assert text.text == long


def test_columns_by_name(tmp_path):
    records = [{"review": a, "reply": b, "words": b.split(), "n": 1} for a, b in PAIRS]
    path = save(tmp_path, "x.jsonl", lines(*records))
    reviews = fingerprint([Text.of(a) for a, _ in PAIRS])
    for data in (path, records, {"x": path}, {"x": records}):
        [one] = corpora_of(data, "review")
        assert one.fingerprint == reviews
        for both in ("review, reply", ("review", "reply"), ("review", "words")):
            assert corpora_of(data, both)[0].fingerprint == TWO


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    path = tmp_path / "x.parquet"
    columns = {"text": [*TEXTS, None, " "], "n": [1, 2, 3, 4, 5]}
    write_table(pyarrow.table(columns), path, row_group_size=2)
    corpus = read(path)
    assert (corpus.fingerprint, corpus.empty, corpus.name) == (SINGLES, 2, "x")
    with pytest.raises(
        ValueError, match=r"x.parquet must have a column 'review', got the columns t"
    ):
        corpora_of(path, "review")
    with pytest.raises(ValueError, match=r"x.parquet, row 1 must have a string 'n', got 1; mend"):
        corpora_of(path, "n")
    save(tmp_path, "y.parquet", path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"y.parquet must be a whole Parquet file, got: .*; write"):
        read(tmp_path / "y.parquet")


def test_data_sets_in_memory_on_disk_and_streaming(tmp_path):
    from datasets import Dataset, DatasetDict

    whole = Dataset.from_dict({"text": TEXTS, "other": [a for a, _ in PAIRS], "n": [1, 2, 3]})
    others = fingerprint([Text.of(a) for a, _ in PAIRS])
    splits = DatasetDict({"train": whole, "test": whole.select([0, 1])})
    whole.save_to_disk(tmp_path / "one")
    splits.save_to_disk(tmp_path / "many")
    (tmp_path / "local").mkdir()
    whole.to_parquet(tmp_path / "local" / "train-00000-of-00001.parquet")
    folders = ("one", "many:train", "local:train")
    places = [tmp_path / name for name in folders]
    for data in (whole, whole.to_iterable_dataset(), {"x": whole}, whole["text"], *places):
        assert corpora_of(data)[0].fingerprint == SINGLES
    for data in (whole, whole.to_iterable_dataset(), {"x": whole}, *places):
        assert corpora_of(data, "other")[0].fingerprint == others
        with pytest.raises(
            ValueError, match=r"must have a column 'review', got the columns text, o"
        ):
            corpora_of(data, "review")
    assert [corpus.name for corpus in corpora_of(splits)] == ["train", "test"]
    assert [len(corpus.texts) for corpus in corpora_of([tmp_path / "many:test"])] == [2]
    with pytest.raises(
        ValueError, match=r"got: split must be one of train, test, got 'dev'; check"
    ):
        read(tmp_path / "many:dev")


def test_streams_are_read_a_row_at_a_time():
    """A stream that goes on for ever may be cut by its user."""
    from datasets import IterableDataset

    def rows():
        while True:
            yield from ({"text": text} for text in TEXTS)

    stream = IterableDataset.from_generator(rows)
    [corpus] = corpora_of(stream.take(3))
    assert corpus.fingerprint == SINGLES


def test_data_frames_have_rows():
    """They iterate over the names of their columns, which are no texts."""
    pairs = pd.DataFrame(PAIRS, columns=["premise", "hypothesis"])
    assert [corpus.fingerprint for corpus in corpora_of(pairs)] == [TWO]
    frame = pd.DataFrame({"review": [*TEXTS, None, np.nan], 0: [1, 2, 3, 4, 5]})
    for data in (frame, {"x": frame}):
        [corpus] = corpora_of(data, "review")
        assert (corpus.fingerprint, corpus.empty) == (SINGLES, 2)
    assert corpora_of(frame["review"][:3])[0].fingerprint == SINGLES
    spaced = pd.DataFrame({" a, b ": TEXTS})
    assert corpora_of(spaced, [" a, b "])[0].fingerprint == SINGLES
    with pytest.raises(ValueError, match="must have a column 'no', got the columns review, 0; "):
        corpora_of(frame, "no")
    with pytest.raises(
        ValueError, match=r"row 1 must have a 'text', .* got fields \['0', 'review'"
    ):
        corpora_of(frame)


def test_empty_texts_are_counted(tmp_path):
    assert read(save(tmp_path, "x.txt", "a\n\n \nb\n")).empty == 2
    assert read(save(tmp_path, "y.txt", "a\nb")).empty == 0
    [corpus] = corpora_of(
        [{"premise": "a", "hypothesis": " "}, {"premise": "a", "hypothesis": "b"}]
    )
    assert (corpus.empty, len(corpus.texts)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"abc\n\xe9t\xe9\n", r"x.txt must be UTF-8, got byte 0xe9 at offset 4; convert"),
        (
            "x.csv",
            b"\xef\xbb\xbftext\nfine\n\xff\n",
            r"x.csv must be UTF-8, got byte 0xff at offset 13; convert it",
        ),
        (
            "x.jsonl",
            lines({"premise": "a", "hypothesis": "b"}, {"premise": "a", "label": 1}),
            r"x.jsonl, line 2 must have a 'hypothesis' beside its 'premise', got fields \['label'",
        ),
        (
            "x.jsonl",
            lines({"hypothesis": "b"}),
            r"x.jsonl, line 1 must have a 'premise' beside its 'hypothesis', got fields \['hypoth",
        ),
        (
            "x.json",
            squad().replace('"question": ', '"asked": ', 1),
            r"x.json, question 1 must have a 'question' beside its 'context', got fields \['asked",
        ),
        (
            "x.jsonl",
            '{"text": ["a", "\\ud800"]}\n',
            r"x, text 1 must have whole characters, got half of a surrogate pair; mend it",
        ),
        ("x.csv", "text,n\na,1\nb\n", r"x.csv, line 3 must have 2 fields as its header, got 1"),
        ("x.csv", "text,n\na,b,1\n", r"line 2 must have 2 .* got 3; mend the line, or quote"),
        ("x.tsv", "text\ttext\na\tb\n", r"must have a header with each name once, got text again"),
        ("x.jsonl", "[" * 99999, r"x.jsonl, line 1 must be JSON, got '\[\[.*\(maximum recursion"),
        ("x.json", "[" * 99999, r"x.json must be JSON, got '\[\[.*\(maximum recursion"),
        ("x.json", "{}\n{}\n", r"line 2 must be JSON, got .* or name it .jsonl if it has an obj"),
        (
            "x.json",
            squad().replace('"context": ', '"text_of": ', 1),
            r"question 1 must have a 'context' beside its 'question', got fields \['id', 'question",
        ),
        ("x.csv", "text,text\na,b\n", r"must have a header with each name once, got text again"),
        ("x.csv", 'text\n"a\n', r"x.csv, line 2 must be CSV, got unexpected end of data; mend"),
        ("x.csv", "text\n", "must hold at least one text with a word, got none"),
        ("x.csv", "", "must hold at least one text with a word, got none"),
        ("x.csv", "a,b\n1,2\n", r"line 2 must have a 'text', or a pair .* got fields \['a', 'b'\]"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=r"^\[corpora\] .*" + message):
        read(save(tmp_path, name, content))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("review", r"line 1 must have a column 'review', got the columns text, n; pass one of the"),
        ("text,review", r"line 1 must have a column 'review', got"),
        ("a,b,c", r"column must be the name of one column, or of two .*, got 'a,b,c'"),
        (["a", "b", "c"], r"got \['a', 'b', 'c'\]; pass it as in 'review'"),
        (3, r"column must be the name of one column, .*, got 3; pass it as in"),
        ("", r"column must be the name of one column"),
    ],
)
def test_columns_that_are_not_there(tmp_path, column, message):
    path = save(tmp_path, "x.jsonl", lines({"text": "a", "n": 1}))
    with pytest.raises(ValueError, match=message):
        corpora_of(path, column)


def test_columns_want_data_with_columns(tmp_path):
    plain = save(tmp_path, "x.txt", "a\n")
    for data, source in ((plain, r"'.*x.txt'"), (["a"], "the texts of texts"), ("-", "'-'")):
        message = rf"column must be of data with columns.*, got review for {source}; leave it out"
        with pytest.raises(ValueError, match=message):
            corpora_of(data, "review")


def test_standard_input(monkeypatch):
    raw = b"\xef\xbb\xbf" + "\r\n".join(TEXTS[:2]).encode() + b"\r\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
    [corpus] = corpora_of("-")
    assert (corpus.name, corpus.source) == ("stdin", "standard input")
    assert corpus.fingerprint == fingerprint([Text.of(text) for text in TEXTS[:2]])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"ab\xff")))
    with pytest.raises(ValueError, match="standard input must be UTF-8, got byte 0xff at offset 2"):
        corpora_of("-")
    monkeypatch.setattr("sys.stdin", None)  # as where the shell closed it
    with pytest.raises(ValueError, match="standard input must be open, got none; pipe texts into"):
        corpora_of("-")


@pytest.fixture
def pair(checkpoint):
    return str(checkpoint("base")), str(checkpoint("tuned", change=nudge(1)))


@pytest.fixture
def records(texts):
    return [
        {"premise": a, "hypothesis": b} for a, b in zip(texts, reversed(texts[3:]), strict=False)
    ]


def rows_by_segment(folder, tokenizer, records):
    """Rows of every layer for special tokens, premises and hypotheses: a pair at a time."""
    encoder = load_encoder(folder, torch.float32)
    found = {"special": [], "first": [], "second": []}
    with inference(encoder):
        for record in records:
            words = (record[name].split() for name in ("premise", "hypothesis"))
            told = tokenizer(*words, is_split_into_words=True, return_tensors="pt")
            states = encoder(**told, output_hidden_states=True).hidden_states
            sequence = [-1 if of is None else of for of in told.sequence_ids()]
            word_of = np.array([-1 if of is None else of for of in told.word_ids()])
            for number, name in enumerate(found):
                inside = np.array(sequence) == number - 1
                words_there = word_of[inside] if number else np.flatnonzero(inside)
                runs = [
                    inside & ((word_of if number else np.arange(len(word_of))) == word)
                    for word in dict.fromkeys(words_there.tolist())
                ]
                found[name] += [[state[0, run].mean(dim=0) for state in states] for run in runs]
    return found


def test_segments_are_corpora_of_one_pass(pair, tokenizer, records, monkeypatch):
    from bertft import streaming

    calls = []
    capture = streaming.capture
    monkeypatch.setattr(
        streaming, "capture", lambda *args, **rest: calls.append(1) or capture(*args, **rest)
    )
    options = {"measures": ["rsa_dot", "cka"], "batch_size": 4}
    found = bertft.compare(*pair, {"nli": records}, group="segment", **options)
    assert len(calls) == 2 * -(-len(records) // 4)
    rows = [rows_by_segment(folder, tokenizer, records) for folder in pair]
    for name in rows[0]:
        layers = [list(zip(*own[name], strict=True)) for own in rows]
        both = [[torch.stack(layer).double() for layer in own] for own in layers]
        expected = [bertft.similarity.cka(x, y) for x, y in zip(*both, strict=True)]
        of_group = values(found, "cka", f"nli/{name}")
        np.testing.assert_allclose(of_group, expected, atol=2e-6)
        assert set(found.table.query(f"corpus == 'nli/{name}'")["n"]) == {len(both[0][0])}
    whole = bertft.compare(*pair, {"nli": records}, **options)
    n = {name: int(of["n"].iloc[0]) for name, of in found.table.groupby("corpus")}
    assert whole.table["n"].iloc[0] == n["nli/first"] + n["nli/second"]
    alone = bertft.compare(*pair, {"nli": records}, group="segment", limit=20, **options)
    assert set(alone.table["n"]) == {20}
    assert [corpus["name"] for corpus in alone.provenance["corpora"]] == [
        f"nli/{name}" for name in rows[0]
    ]


def test_segments_that_there_are_not(pair, texts):
    found = bertft.compare(*pair, texts, group="segment", measures=["cka"])
    assert list(found.table["corpus"].unique()) == ["texts/special", "texts/first"]
    assert "texts: no rows of second." in found.provenance["notes"]
    whole = bertft.compare(*pair, texts, measures=["cka"])
    np.testing.assert_allclose(values(found, "cka", "texts/first"), values(whole, "cka"), atol=1e-9)


def test_rows_of_one_position(pair, tokenizer, texts):
    """The classification token, and single pieces of words."""
    encoders = [load_encoder(folder, torch.float32) for folder in pair]
    rows = {"cls": ([], []), "first": ([], []), "last": ([], [])}
    with inference(*encoders):
        for side, encoder in enumerate(encoders):
            for text in texts:
                told = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
                top = encoder(**told).last_hidden_state[0]
                ids = told.word_ids()
                firsts = [i for i, of in enumerate(ids) if of is not None and of != ids[i - 1]]
                lasts = [i for i, of in enumerate(ids) if of is not None and of != ids[i + 1]]
                rows["cls"][side].append(top[:1])
                rows["first"][side].append(top[firsts])
                rows["last"][side].append(top[lasts])
    expected = {
        name: float(bertft.similarity.cka(*(torch.cat(side).double() for side in both)))
        for name, both in rows.items()
    }
    for name, options in (
        ("cls", {"rows": "cls"}),
        ("first", {"pieces": "first"}),
        ("last", {"pieces": "last"}),
    ):
        found = bertft.compare(*pair, texts, measures=["cka"], **options)
        assert values(found, "cka")[-1] == pytest.approx(expected[name], abs=2e-6)
    # Before the first block it is the same for all texts.
    cls = bertft.compare(*pair, texts, measures=["cka"], rows="cls")
    assert np.isnan(values(cls, "cka")[0])
    assert len({*expected.values()}) == 3


def test_command_line(pair, records, tmp_path):
    path = save(tmp_path, "nli.jsonl", lines(*records, {"premise": "", "hypothesis": "a"}))
    out = tmp_path / "run"
    options = ("--group", "segment", "--pieces", "first", "--measures", "cka")
    done = run("compare", *pair, "--data", path, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert "nli: 1 texts are empty and were left out." in done.stderr
    loaded = bertft.compare(*pair, path, group="segment", pieces="first", measures=["cka"])
    saved = type(loaded).load(out)
    np.testing.assert_allclose(saved.table["value"], loaded.table["value"], atol=1e-6)
    assert saved.provenance["options"]["group"] == "segment"
    assert saved.provenance["options"]["pieces"] == "first"
    assert saved.provenance["corpora"][0]["empty_texts"] == 1
    piped = run(
        "compare",
        *pair,
        "--data",
        "-",
        "--out",
        tmp_path / "piped",
        "--measures",
        "cka",
        input="\n".join(record["premise"] for record in records),
    )
    assert piped.returncode == 0, piped.stderr
    assert "stdin" in piped.stdout
    wrong = run("compare", *pair, "--data", path, "--out", tmp_path / "x", "--column", "review")
    assert wrong.returncode == 2
    assert "line 1 must have a column 'review', got the columns premise, hypo" in wrong.stderr
    assert not (tmp_path / "x").exists()
