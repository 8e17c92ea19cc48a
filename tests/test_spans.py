"""Rows for the spans of targets, against the characters that pieces and words cover."""

import copy
import random
import re

import numpy as np
import pytest

pytest.importorskip("transformers")

from bertft.corpora.edges import Record, Target
from bertft.probing.spans import span_rows


def record(text, *targets):
    """A record whose targets are tuples of spans."""
    return Record(tuple(text.split(" ")), tuple(Target(spans, ("x",)) for spans in targets))


def pieces_of(rows, tokenizer):
    """For each row the pieces of its run."""
    found = []
    for text in rows.texts:
        tokens = tokenizer.convert_ids_to_tokens(text.ids.tolist())
        found += [tokens[i:j] for i, j in zip(text.starts, text.stops, strict=True)]
    return found


def spelled(rows, targets, tokenizer):
    """For each target the pieces of each of its spans."""
    pieces = pieces_of(rows, tokenizer)
    return [
        [
            " ".join(piece for row in pieces[i:j] for piece in row)
            for i, j in zip(*ends, strict=True)
        ]
        for ends in zip(targets.starts, targets.stops, strict=True)
    ]


RECORDS = [
    record("the old cat played", ((1, 3), (3, 4)), ((0, 2), (1, 3))),
    record("a dog", ((0, 1), (0, 2))),
]


def test_rows_are_the_pieces_inside_spans(tokenizer):
    records = [RECORDS[0], Record(("the", "mat"), ()), RECORDS[1]]
    rows, targets = span_rows(records, tokenizer, None, pool=False)
    expected = ["the", "old", "cat", "play", "##ed", "a", "dog"]
    assert pieces_of(rows, tokenizer) == [[piece] for piece in expected]
    assert targets.starts.tolist() == [[1, 3], [0, 1], [5, 5]]
    assert targets.stops.tolist() == [[3, 5], [2, 3], [6, 7]]
    assert targets.sentence.tolist() == [0, 0, 2]
    assert targets.kept.tolist() == [0, 1, 2]
    assert (targets.dropped, targets.cut) == (0, 0)
    assert len(rows.texts) == 2
    for array in (targets.starts, targets.stops, targets.sentence, targets.kept):
        assert array.dtype == np.int64
    assert {text.starts.dtype for text in rows.texts} == {np.dtype(np.int32)}


def test_pooled_rows_are_the_different_spans(tokenizer):
    rows, targets = span_rows(RECORDS, tokenizer, None, pool=True)
    expected = ["the old", "old cat", "play ##ed", "a", "a dog"]
    assert [" ".join(pieces) for pieces in pieces_of(rows, tokenizer)] == expected
    assert targets.starts.tolist() == [[1, 2], [0, 1], [3, 4]]
    assert (targets.stops == targets.starts + 1).all()


def test_pieces_outside_all_spans_are_no_rows(tokenizer):
    records = [record("the cat sat on the mat", ((1, 2),), ((4, 6),), ((1, 2),))]
    rows, targets = span_rows(records, tokenizer, None, pool=False)
    assert pieces_of(rows, tokenizer) == [["cat"], ["the"], ["mat"]]
    assert targets.starts.tolist() == [[0], [1], [0]]
    assert targets.stops.tolist() == [[1], [3], [1]]


@pytest.mark.parametrize("pool", [False, True])
def test_words_without_pieces(tokenizer, pool):
    records = [
        record("\u200d the \u200d\u200d cat \u200d", ((0, 1),), ((0, 2),), ((1, 4),), ((3, 5),)),
        record("the  cat", ((1, 2),), ((0, 2),), ((1, 3),)),
        record("\u200d", ((0, 1),)),
    ]
    rows, targets = span_rows(records, tokenizer, None, pool)
    assert [" ".join(spans) for spans in spelled(rows, targets, tokenizer)] == [
        *("the", "the cat", "cat", "the", "cat")
    ]
    assert targets.kept.tolist() == [1, 2, 3, 5, 6]
    assert targets.sentence.tolist() == [0, 0, 0, 1, 1]
    assert (targets.dropped, targets.cut) == (3, 0)
    assert (rows.dropped_words, rows.truncated_words, rows.truncated_texts) == (5, 0, 0)


@pytest.mark.parametrize("pool", [False, True])
def test_spans_that_are_cut_off(tokenizer, pool):
    spans = [(0, 1), (3, 4), (3, 5), (4, 5), (5, 6), (6, 7)]
    records = [
        record("the cat sat on played \u200d mat", *((span, (0, 1)) for span in spans)),
        record("the cat", ((0, 1), (1, 2))),
    ]
    # [CLS] the cat sat on play [SEP]: the fifth word is cut in two.
    rows, targets = span_rows(records, tokenizer, 7, pool)
    assert spelled(rows, targets, tokenizer) == [["the", "the"], ["on", "the"], ["the", "cat"]]
    assert targets.kept.tolist() == [0, 1, 6]
    assert (targets.dropped, targets.cut) == (0, 4)
    assert (rows.truncated_texts, rows.truncated_words, rows.dropped_words) == (1, 3, 0)
    whole = span_rows(records, tokenizer, 10, pool)[1]
    assert (whole.kept.tolist(), whole.dropped, whole.cut) == ([0, 1, 2, 3, 5, 6], 1, 0)


@pytest.mark.parametrize("pool", [False, True])
def test_a_special_token_in_a_span_is_inside(tokenizer, pool):
    records = [record("the [SEP] cat", ((0, 3),), ((0, 1),), ((1, 2),))]
    rows, targets = span_rows(records, tokenizer, None, pool)
    assert spelled(rows, targets, tokenizer) == [["the [SEP] cat"], ["the"]]
    assert targets.dropped == 1


@pytest.mark.parametrize("pool", [False, True])
def test_nothing_kept_is_refused(tokenizer, pool):
    records = [record("\u200d cat sat", ((0, 1),), ((1, 3),))]
    message = (
        "[span_rows] records must have a target that the tokenizer keeps, got 2 of which 1 are cut "
        "off at 3 positions and 1 have no piece; pass other sentences."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        span_rows(records, tokenizer, 3, pool)
    for nothing in ([], [Record(("cat",), ())]):
        with pytest.raises(ValueError, match=re.escape("[span_rows] records must have a target")):
            span_rows(nothing, tokenizer, 3, pool)


def test_spans_that_are_cut_off_on_the_left(tokenizer):
    left = copy.deepcopy(tokenizer)
    left.truncation_side = "left"
    records = [record("played the cat sat on", ((0, 1),), ((0, 3),), ((2, 3),), ((1, 5),))]
    rows, targets = span_rows(records, left, 5, pool=True)
    # Of the words only the last ones are left, whole, between [CLS] and [SEP].
    assert (rows.truncated_texts, rows.truncated_words, rows.dropped_words) == (1, 2, 0)
    assert (targets.kept.tolist(), targets.cut, targets.dropped) == ([2], 3, 0)


def some_records(n, spans, seed):
    """Records of known, unknown, long, unprintable and empty words, with spans of all lengths."""
    draw = random.Random(seed)
    words = ["the", "cat", "played", "Player's", "x-y.z", "\u200d", "qqqqq", "Old,", "", "é", "中"]
    records = []
    for _ in range(n):
        sentence = [draw.choice(words) for _ in range(draw.randint(1, 9))]
        targets = []
        for _ in range(draw.randint(0, 6)):
            ends = [sorted(draw.sample(range(len(sentence) + 1), 2)) for _ in range(spans)]
            targets.append(tuple(tuple(pair) for pair in ends))
        records.append(record(" ".join(sentence), *targets))
    return records


def covering(text, words, span, tokenizer, limit):
    """Positions of the pieces that cover a character of a span; None if one of them is cut off."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    owner = []
    for number, word in enumerate(words):
        owner += [number] * len(word) + [None]
    found = []
    for position, (start, stop) in enumerate(encoded["offset_mapping"]):
        if any(
            owner[at] is not None and span[0] <= owner[at] < span[1] for at in range(start, stop)
        ):
            found.append(position)
    # The last position that is left is the special token at the end.
    if limit is not None and len(encoded["input_ids"]) > limit:
        last = sum(len(word) + 1 for word in words[: span[1]]) - 1
        if last > encoded["offset_mapping"][limit - 1][0]:
            return None
    return found


@pytest.mark.parametrize("limit", [None, 12, 5])
@pytest.mark.parametrize("spans", [1, 2])
def test_spans_cover_the_pieces_of_their_characters(tokenizer, spans, limit):
    records = some_records(60, spans, seed=spans)
    expected, cut, dropped, flat = [], 0, 0, 0
    for number, each in enumerate(records):
        text = " ".join(each.words)
        for target in each.targets:
            found = [covering(text, each.words, s, tokenizer, limit) for s in target.spans]
            if None in found:
                cut += 1
            elif [] in found:
                dropped += 1
            else:
                expected.append((flat, number, found))
            flat += 1
    assert cut > 5 or limit is None
    assert dropped > 5
    for pool in (False, True):
        rows, targets = span_rows(records, tokenizer, limit, pool)
        assert (targets.cut, targets.dropped) == (cut, dropped)
        assert targets.kept.tolist() == [flat for flat, _, _ in expected]
        assert targets.sentence.tolist() == [number for _, number, _ in expected]
        used = sorted({(number, p) for _, number, found in expected for s in found for p in s})
        ranges = sorted({(number, s[0], s[-1] + 1) for _, number, found in expected for s in found})
        own = [(number, i, j) for number, i, j in ranges]
        own = own if pool else [(number, p, p + 1) for number, p in used]
        places = [
            (i, j) for text in rows.texts for i, j in zip(text.starts, text.stops, strict=True)
        ]
        assert places == [(i, j) for _, i, j in own]
        for (_, number, found), starts, stops in zip(
            expected, targets.starts, targets.stops, strict=True
        ):
            for span, start, stop in zip(found, starts, stops, strict=True):
                inside = own[start:stop]
                assert {n for n, _, _ in inside} == {number}
                assert [p for _, i, j in inside for p in range(i, j)] == span


def test_pieces_may_belong_to_two_words():
    """A byte-level piece may hold the end of one word and the beginning of the next."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("b", "Ġ"), ("bĠ", "c")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(m) for m in merges)])}
    bpe = Tokenizer(models.BPE(vocabulary, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    records = [record("ab cd", ((0, 1), (1, 2)), ((0, 2), (1, 2)))]
    rows, targets = span_rows(records, tokenizer, None, pool=False)
    assert spelled(rows, targets, tokenizer) == [["a bĠc", "bĠc d"], ["a bĠc d", "bĠc d"]]
    assert rows.n == 3


@pytest.mark.real
@pytest.mark.parametrize("name", ["ner_wnut17", "coref_gap"])
def test_real_spans_read_as_their_words(shared, name):
    from transformers import AutoTokenizer

    from bertft.probing.tasks import EdgeTask

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "minilm")
    records = EdgeTask.read(name, shared / "data" / "edges" / name).dev
    flat = [
        [" ".join(each.words[i:j]) for i, j in target.spans]
        for each in records
        for target in each.targets
    ]
    rows, targets = span_rows(records, tokenizer, 512, pool=False)
    assert len(targets.kept) + targets.cut + targets.dropped == len(flat)
    ids = np.concatenate([text.ids[text.starts] for text in rows.texts])
    for kept, starts, stops in zip(targets.kept, targets.starts, targets.stops, strict=True):
        for text, i, j in zip(flat[kept], starts, stops, strict=True):
            assert ids[i:j].tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
