"""Words, tokens, draws and batches; and the readers of files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bertft.corpora import Corpus, Text, corpora_of, read
from bertft.rows import Encoded, batches, draw, groups_by_length, lengths_of, pad
from bertft.tokenizing import CUT_OFF, encode, encode_words


def words_of(text):
    return [text.text[start:stop] for start, stop in text.words]


def pieces_of(rows, tokenizer, text=0):
    encoded = rows.texts[text]
    tokens = tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    return [tokens[i:j] for i, j in zip(encoded.starts, encoded.stops, strict=True)]


def test_words_are_runs_of_non_space_characters():
    text = Text.of("  the\tcat's  mat ,\u00a0and ")
    assert words_of(text) == ["the", "cat's", "mat", ",", "and"]
    assert words_of(Text.of_words(["a b", "c", "d"])) == ["a b", "c", "d"]


def test_words_get_all_their_pieces(tokenizer):
    rows = encode([Text.of("The played cat, x")], tokenizer)
    assert pieces_of(rows, tokenizer) == [["the"], ["play", "##ed"], ["cat", ","], ["x"]]


def test_tokens_are_rows_of_their_own_without_special_ones(tokenizer):
    rows = encode([Text.of("the played cat")], tokenizer, "tokens")
    assert pieces_of(rows, tokenizer) == [["the"], ["play"], ["##ed"], ["cat"]]


def test_special_tokens_in_the_text_never_enter(tokenizer):
    rows = encode([Text.of("the [SEP] cat [UNK]")], tokenizer)
    assert pieces_of(rows, tokenizer) == [["the"], ["cat"], ["[UNK]"]]
    assert rows.dropped_words == 1


def test_words_without_pieces_are_counted(tokenizer):
    rows = encode([Text.of("the \u200d\u0000 cat")], tokenizer)
    assert pieces_of(rows, tokenizer) == [["the"], ["cat"]]
    assert rows.dropped_words == 1


def test_long_texts_are_cut_and_counted(tokenizer):
    texts = [Text.of("the cat sat on the mat played"), Text.of("the cat")]
    rows = encode(texts, tokenizer, max_length=9)
    assert [len(text.ids) for text in rows.texts] == [9, 4]
    assert pieces_of(rows, tokenizer)[-1] == ["mat"]
    assert (rows.truncated_texts, rows.truncated_words, rows.dropped_words) == (1, 1, 0)


def test_every_word_has_a_run(tokenizer):
    texts = [Text.of("the \u200d cat, [SEP] played on"), Text.of("a b"), Text.of("\u200d")]
    long, short, empty = encode_words(texts, tokenizer, max_length=8)
    # [CLS] the cat , play ##ed on [SEP] is as long as allowed, without its own [SEP] in the text.
    assert long.starts.tolist() == [1, 0, 2, 0, 5, CUT_OFF]
    assert long.stops.tolist() == [2, 0, 4, 0, 7, CUT_OFF]
    assert (short.starts.tolist(), short.stops.tolist()) == ([1, 2], [2, 3])
    assert (empty.starts.tolist(), empty.stops.tolist()) == ([0], [0])
    assert long.starts.dtype == long.stops.dtype == np.int32


def test_rows_of_words_are_the_runs_of_words(tokenizer, texts):
    texts = [Text.of(f"{text} \u200d [SEP] {other}") for text in texts for other in texts]
    for length in (None, 17, 4, 2):
        rows, words = (
            encode(texts, tokenizer, max_length=length),
            encode_words(texts, tokenizer, length),
        )
        cut = dropped = 0
        for text, own in zip(rows.texts, words, strict=True):
            kept = own.stops > own.starts
            assert np.array_equal(text.ids, own.ids)
            assert np.array_equal(text.starts, own.starts[kept])
            assert np.array_equal(text.stops, own.stops[kept])
            cut += int((own.stops == CUT_OFF).sum())
            dropped += int((own.stops == 0).sum())
        assert (rows.truncated_words, rows.dropped_words) == (cut, dropped)


def test_words_do_not_depend_on_the_tokenizer():
    """A byte-level tokenizer with spaces inside its tokens finds the same words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(m) for m in merges)])}
    bpe = Tokenizer(models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    text = Text.of("the cat café  cat")
    rows = encode([text], tokenizer)
    pieces = ["".join(p) for p in pieces_of(rows, tokenizer)]
    assert pieces == ["the", "Ġcat", "ĠcafÃ©", "Ġcat"]


def test_a_draw_is_uniform_and_does_not_depend_on_anything_else(tokenizer, texts):
    rows = encode([Text.of(text) for text in texts], tokenizer)
    counts = np.zeros(rows.n)
    numbered = np.arange(rows.n)
    for seed in range(400):
        drawn = draw(rows, 20, seed)
        assert drawn.n == 20
        first, found = 0, []
        by_ids = iter(drawn.texts)
        current = next(by_ids, None)
        for text in rows.texts:
            own = numbered[first : first + len(text.starts)]
            first += len(text.starts)
            if current is not None and current.ids is text.ids:
                found += own[np.isin(text.starts, current.starts)].tolist()
                current = next(by_ids, None)
        counts[found] += 1
    expected = 400 * 20 / rows.n
    assert counts.sum() == 400 * 20
    assert np.square(counts - expected).sum() / expected < 1.4 * rows.n
    again = draw(rows, 20, 3)
    assert [t.starts.tolist() for t in again.texts] == [
        t.starts.tolist() for t in draw(rows, 20, 3).texts
    ]
    assert draw(rows, None, 0).n == draw(rows, 10**6, 0).n == rows.n


def test_batches_pad_on_the_right_and_point_at_the_same_pieces(tokenizer, texts):
    rows = encode([Text.of(text) for text in texts], tokenizer)
    parts = [pad(group, pad_id=0) for group in batches(rows, 4, 50)]
    assert sum(len(batch.starts) for batch in parts) == rows.n
    assert all(len(batch.ids) <= 4 and len(batch.starts) <= 50 for batch in parts)
    lengths = [batch.ids.shape[1] for batch in parts]
    assert lengths == sorted(lengths, reverse=True)
    found = []
    for batch in parts:
        assert torch.equal(batch.mask.bool(), batch.ids != 0)
        flat = batch.ids.flatten()
        found += [flat[i:j].tolist() for i, j in zip(batch.starts, batch.stops, strict=True)]
    expected = [
        text.ids[i:j].tolist()
        for text in rows.texts
        for i, j in zip(text.starts, text.stops, strict=True)
    ]
    assert sorted(found) == sorted(expected)


def test_a_text_with_more_rows_than_a_block_is_a_batch_of_its_own(tokenizer, texts):
    rows = encode([Text.of(text) for text in texts], tokenizer)
    assert all(len(group) == 1 for group in batches(rows, 8, 1))


@pytest.mark.parametrize("specials", [True, False])
def test_a_vocabulary_may_have_gaps(specials):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    rules = Tokenizer(models.WordLevel({"[UNK]": 0, "[X]": 7, "far": 900}, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"additional_special_tokens": ["[X]"]} if specials else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="[UNK]", **marks)
    rows = encode([Text.of("far near [X] far")], tokenizer)
    assert rows.texts[0].ids.tolist() == [900, 0, 7, 900]
    assert rows.texts[0].starts.tolist() == ([0, 1, 3] if specials else [0, 1, 2, 3])


def test_encode_refuses(tokenizer):
    message = r"^\[encode\] rows must be among words, tokens, cls and pieces among .*, got "
    for wrong in ({"kind": "sentences"}, {"pieces": "all"}):
        with pytest.raises(ValueError, match=message):
            encode([Text.of("a")], tokenizer, **wrong)


def test_offsets_are_needed():
    class Slow:
        is_fast = False

    message = r"^\[encode\] tokenizer must tell .* word ids, got Slow; save it as a fast tokenizer"
    for call in (encode, encode_words):
        with pytest.raises(ValueError, match=message):
            call([Text.of("a")], Slow())


CONLLU = """# text = I don't
1	I	_	_	_	_	2	_	_	_
2-3	don't	_	_	_	_	_	_	_	_
2	do	_	_	_	_	0	_	_	_
3	n't	_	_	_	_	2	_	_	_
3.1	gone	_	_	_	_	_	_	_	_

# a comment
1	A b	_	_	_	_	0	_	_	_
"""


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_conllu_words_are_those_annotated(tmp_path):
    corpus = read(write(tmp_path / "x.conllu", CONLLU))
    assert [words_of(text) for text in corpus.texts] == [["I", "do", "n't"], ["A b"]]
    assert corpus.name == "x"
    windows = read(write(tmp_path / "y.conllu", CONLLU.replace("\n", "\r\n")))
    assert windows.fingerprint == corpus.fingerprint


def test_plain_and_json_lines(tmp_path):
    plain = read(write(tmp_path / "x.txt", "\ufeffone two\n\n \nthree\n"))
    assert [words_of(text) for text in plain.texts] == [["one", "two"], ["three"]]
    lines = "\n".join(json.dumps({"text": text, "n": 1}) for text in ("one two", "three")) + "\n\n"
    assert read(write(tmp_path / "x.jsonl", lines)).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.txt", "", r"x must hold at least one text with a word"),
        ("x.txt", " \n\n", r"at least one text with a word, got none in .*x.txt"),
        ("x.conllu", "# only\n", "at least one text"),
        ("x.conllu", CONLLU + "1\ta\tb\n", r"x.conllu, line 10 must have 10 tab.* got 3"),
        ("x.conllu", CONLLU.replace("\t_\n3.1", "\n3.1"), r"line 5 must have 10 .* got 9"),
        (
            "x.conllu",
            CONLLU.replace("3.1\t", "?\t"),
            r"line 6 must have an id .* got '\?' and 'gone'",
        ),
        (
            "x.conllu",
            CONLLU.replace("\tdo\t", "\t\t"),
            "line 4 must have an id and a form, got '2'",
        ),
        (
            "x.jsonl",
            '{"text": "a"}\n{"tokens": []}\n',
            r"line 2 must have a 'text', or a pair .*, got fields \['tokens'\]; name the text",
        ),
        ("x.jsonl", '{"text": 3}\n', "line 1 must have a string 'text', got 3"),
        ("x.jsonl", '\n["text"]\n', "line 2 must be an object"),
        ("x.jsonl", "{text}\n", "line 1 must be JSON, got '{text}'"),
        ("x.txt", b"abc\xff", r"x.txt must be UTF-8, got byte 0xff at offset 3"),
        ("x.docx", "a", r"must be a .txt, .conllu, .jsonl, .json, .*, got '.*x.docx'; convert it"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / name, text))


def test_corpora_of_anything(tmp_path):
    (tmp_path / "other").mkdir()
    a = write(tmp_path / "a.txt", "one\n")
    b = write(tmp_path / "other" / "b.txt", "two\n")
    same = write(tmp_path / "other" / "a.txt", "three\n")
    assert [corpus.name for corpus in corpora_of(str(a))] == ["a"]
    assert [corpus.name for corpus in corpora_of([a, b])] == ["a", "b"]
    assert [corpus.name for corpus in corpora_of([a, same])] == [str(a), str(same)]
    assert [corpus.name for corpus in corpora_of({"in": a, "out": ["x y", ("z", "w")]})] == [
        "in",
        "out",
    ]
    (memory,) = corpora_of(text for text in ["x y", ["z", "w"]])
    assert (memory.name, memory.source, len(memory.texts)) == ("texts", "memory", 2)
    assert memory.fingerprint == Corpus.of("n", [Text.of("x y"), Text.of("z w")]).fingerprint


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("none.txt", FileNotFoundError, "data must be an existing file or a .* got 'none.txt'"),
        ([], ValueError, "at least one text"),
        ([3], TypeError, "strings, sequences of words or mappings of .*, got int"),
        ({"a": 3}, TypeError, "a must be a path or an iterable of texts, got int"),
        (3, TypeError, "texts must be a path or an iterable of texts, got int"),
        ({}, ValueError, "data must be a corpus or more, got none"),
        (["a\ud800"], ValueError, "texts, text 1 must have whole characters, got half of a surr"),
        (
            ["a b", ("a premise", "a hypothesis")],
            ValueError,
            "texts must hold words where it holds sequences, got two texts in number 2; pass",
        ),
        (str(Path(__file__).parent), FileNotFoundError, "data must name a split where it is a fol"),
    ],
)
def test_corpora_of_refuses(data, error, message):
    with pytest.raises(error, match=message):
        corpora_of(data)


def test_long_texts_are_not_taken_for_paths():
    (corpus,) = corpora_of(["a. " * 150 + "v1.5", "a " * 200 + ".txt"])
    assert len(corpus.texts) == 2


def test_paths_are_not_taken_for_texts(tmp_path):
    a = write(tmp_path / "a.txt", "one\n")
    with pytest.raises(TypeError, match=r"must be texts, got paths such as .*a.txt"):
        corpora_of([str(a)])
    with pytest.raises(ValueError, match="must be different files"):
        corpora_of([a, a])


def test_groups_are_of_similar_length_in_every_way_to_tokenize():
    """Texts of two lengths go by the longer way first, whichever way is named first."""
    random = np.random.default_rng(3)
    longer = random.integers(5, 60, 400)
    shorter = (longer * random.uniform(0.5, 0.9, 400)).astype(int) + 1

    def texts(lengths):
        return [Encoded(np.zeros(n, np.int32), *np.zeros((2, 1), np.int32)) for n in lengths]

    for ways in ((longer, shorter), (shorter, longer)):
        lengths = lengths_of([texts(way) for way in ways])
        assert lengths == list(zip(longer.tolist(), shorter.tolist(), strict=True))
        groups = groups_by_length(lengths, [1] * 400, 16, 10**6)
        assert sorted(number for group in groups for number in group) == list(range(400))
        assert all(len(group) == 16 for group in groups)
        padded = sum(longer[group].max() * len(group) for group in groups)
        assert longer.sum() > 0.95 * padded
