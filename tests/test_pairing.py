"""Models of different vocabularies word by word; pairs of texts, segments and single pieces."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import bertft
from bertft.checkpoints import Checkpoint
from bertft.corpora import Text
from bertft.pairing import common_rows, encode_sides, shares_tokens
from bertft.rows import SEGMENTS, batches, pad
from bertft.tokenizing import CUT_OFF, encode, encode_rows, encode_words, of_segment, paired
from bertft.traces import inference
from tests.test_comparison import values

LONG = ("pneumonoultramicroscopic" * 12, "a" * 150, "\U0001f44d" * 40)
HOSTILE = [
    "Plain words, and some punctuation: it's \"quoted\" (twice) -- isn't it?",
    "Thumbs \U0001f44d\U0001f3fd up, family \U0001f468\u200d\U0001f469\u200d\U0001f467 and flag "
    "\U0001f1eb\U0001f1f7!",
    "Cafe\u0301 nai\u0308ve re\u0301sume\u0301 against café naïve résumé \u0301 alone",
    "zero\u200bwidth \u200b \u200d\ufeff joiners\u200d, soft\u00adhyphens \u0000 \u0007 controls",
    "中文 没有空格的句子 and 日本語のテキスト with 한국어 단어",
    "עברית מימין לשמאל and العربية مِن اليمين \u202bmarks\u202c inside",
    "See https://example.org/a/very/long?path=1&q=%20x#frag or mail a.b+c@example.co.uk now",
    f"A {LONG[0]} word and {LONG[1]} and {LONG[2]} end",
    "  leading\tand \u00a0 odd\u3000spaces\u2028here  ",
    "numbers 3.14159 1,000,000 2e-7 [SEP] <s> and [UNK] spelled out",
]


def pair_of(first, second):
    return replace(Text.of(first), second=Text.of(second))


@pytest.fixture(scope="module")
def tokenizers():
    """Three of them: WordPiece without and with case, and bytes without a padding token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def word_piece(lowercase):
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        rules = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        rules.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        rules.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=names, show_progress=False
        )
        # Learned without the last texts, so that some words become [UNK].
        rules.train_from_iterator(HOSTILE[:4] * 3, trainer)
        rules.post_processor = processors.BertProcessing(
            ("[SEP]", rules.token_to_id("[SEP]")), ("[CLS]", rules.token_to_id("[CLS]"))
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=rules,
            unk_token="[UNK]",
            pad_token="[PAD]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            model_max_length=512,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )

    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator(HOSTILE * 3, trainer)
    rules.post_processor = processors.RobertaProcessing(
        ("</s>", rules.token_to_id("</s>")),
        ("<s>", rules.token_to_id("<s>")),
        trim_offsets=True,
        add_prefix_space=False,
    )
    by_bytes = PreTrainedTokenizerFast(
        tokenizer_object=rules,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        model_max_length=512,
    )
    return {"uncased": word_piece(True), "cased": word_piece(False), "bytes": by_bytes}


def runs_of_characters(text, tokenizer):
    """The positions that cover each word, told character by character and piece by piece."""
    encoding = tokenizer(text.text).encodings[0]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    runs = []
    for start, stop in text.words:
        covering = [
            position
            for position, (first, last) in enumerate(encoding.offsets)
            if encoding.ids[position] not in special
            and any(first <= character < last for character in range(start, stop))
        ]
        runs.append((covering[0], covering[-1] + 1) if covering else None)
    return runs


@pytest.mark.parametrize(
    "names", [("uncased", "bytes"), ("cased", "uncased"), ("bytes", "cased", "uncased"), ("bytes",)]
)
def test_words_are_paired_as_characters_are(tokenizers, names):
    texts = [Text.of(text) for text in HOSTILE]
    found = paired({name: encode_rows(texts, tokenizers[name], "words") for name in names})
    dropped = unpaired = 0
    for number, text in enumerate(texts):
        runs = {name: runs_of_characters(text, tokenizers[name]) for name in names}
        kept = [word for word in range(len(text.words)) if all(own[word] for own in runs.values())]
        some = [word for word in range(len(text.words)) if any(own[word] for own in runs.values())]
        dropped += len(text.words) - len(some)
        unpaired += len(some) - len(kept)
        for name in names:
            own = found[name].texts[number]
            told = list(zip(own.starts.tolist(), own.stops.tolist(), strict=True))
            assert told == [runs[name][word] for word in kept]
    assert {(rows.dropped_words, rows.unpaired_words) for rows in found.values()} == {
        (dropped, unpaired)
    }
    assert (unpaired > 0) == (len(names) > 1)


@pytest.mark.parametrize("name", ["uncased", "cased", "bytes"])
def test_words_are_whole_words_of_the_tokenizer(tokenizers, name):
    """What a tokenizer calls a word, by its `word_ids`, is never divided among rows.

    A space before a word that is a piece of its own is no part of it.
    """
    texts = [Text.of(text) for text in HOSTILE]
    rows = encode(texts, tokenizers[name])
    for text, own in zip(texts, rows.texts, strict=True):
        encoding = tokenizers[name](text.text).encodings[0]
        row_of = {}
        for row, (start, stop) in enumerate(zip(own.starts, own.stops, strict=True)):
            row_of |= dict.fromkeys(range(start, stop), row)
        rows_of_word = {}
        for position, word in enumerate(encoding.word_ids):
            start, stop = encoding.offsets[position]
            if word is not None and text.text[start:stop].strip():
                rows_of_word.setdefault(word, set()).add(row_of.get(position))
        assert {len(rows) for rows in rows_of_word.values()} == {1}
        assert set(row_of.values()) <= set.union(*rows_of_word.values())


def test_words_that_one_model_cuts_off_are_left_out_of_both(tokenizers):
    texts = [Text.of(HOSTILE[0]), Text.of(HOSTILE[5])]
    both = {name: encode_rows(texts, tokenizers[name], "words", 16) for name in ("cased", "bytes")}
    rows = paired(both)
    for number in range(len(texts)):
        whole = [int((own[number].stops >= 0).sum()) for own in both.values()]
        assert len(set(whole)) == 2  # one of them is cut earlier
        assert {len(own.texts[number].starts) for own in rows.values()} == {min(whole)}
    assert rows["cased"].truncated_texts == 2
    assert rows["cased"].truncated_words == sum(len(text.words) for text in texts) - rows["bytes"].n


def bert(tokenizer, make_model, **options):
    return Checkpoint.open(
        make_model(vocab_size=len(tokenizer), max_position_embeddings=512, **options),
        None,
        tokenizer,
    )


def test_models_share_what_their_tokenizers_do_alike(tokenizers, make_model):
    texts = [Text.of(text) for text in HOSTILE]
    sides = {
        "a": bert(tokenizers["cased"], make_model),
        "b": bert(tokenizers["cased"], make_model, seed=1),
        "c": bert(tokenizers["bytes"], make_model),
    }
    encodings = encode_sides(texts, sides, "words", None, "mean", specials=True)
    assert encodings["a"] is encodings["b"]
    assert not shares_tokens(encodings)
    assert not any(
        (text.segments == 0).any() for text in encodings["c"] if text.segments is not None
    )
    everything, drawn = common_rows(encodings, 20, 3)
    assert drawn["a"] is drawn["b"]
    assert {rows.n for rows in drawn.values()} == {20}
    assert {rows.n for rows in everything.values()} == {everything["a"].n}
    for name in ("a", "c"):
        kept = [text.starts.tolist() for text in everything[name].texts]
        for text in drawn[name].texts:
            assert set(text.starts.tolist()) <= set(kept[text.place])
    a, c = ([(t.place, len(t.starts), t.first) for t in drawn[n].texts] for n in ("a", "c"))
    assert a == c


def oracle_rows(side, texts, tokenizer):
    """Rows of every layer, one text at a time: means over the positions of characters."""
    layers = []
    with inference(side.encoder):
        for text in texts:
            inputs = tokenizer(text.text, return_tensors="pt")
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            states = side.encoder(**inputs, output_hidden_states=True).hidden_states
            runs = runs_of_characters(text, tokenizer)
            layers.append(
                [
                    [s[0, r[0] : r[1]].mean(dim=0).double() if r else None for r in runs]
                    for s in states
                ]
            )
    return [[row for text in layers for row in text[layer]] for layer in range(len(layers[0]))]


@pytest.fixture
def two(tokenizers, make_model, tmp_path):
    """Folders of an uncased BERT and of one that reads bytes, and the sides that they are."""
    sides = {}
    for seed, name in enumerate(("uncased", "bytes")):
        own = tokenizers[name]
        side = bert(own, make_model, seed=seed, pad_token_id=own.pad_token_id)
        side.encoder.save_pretrained(tmp_path / name)
        own.save_pretrained(tmp_path / name)
        sides[tmp_path / name] = side
    return sides


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_two_tokenizers_give_what_their_words_give(two, batch_size):
    rows = [
        oracle_rows(side, [Text.of(text) for text in HOSTILE], side.tokenizer)
        for side in two.values()
    ]
    words = range(len(rows[0][0]))
    both = [word for word in words if all(own[0][word] is not None for own in rows)]
    some = [word for word in words if any(own[0][word] is not None for own in rows)]
    expected = [
        bertft.similarity.cka(*(torch.stack([own[layer][word] for word in both]) for own in rows))
        for layer in range(4)
    ]
    folders = map(str, two)
    found = bertft.compare(*folders, HOSTILE, measures=["cka"], batch_size=batch_size)
    np.testing.assert_allclose(values(found, "cka"), expected, atol=2e-6)
    assert found.table["n"].unique() == len(both)
    [corpus] = found.provenance["corpora"]
    assert corpus["unpaired_words"] == len(some) - len(both) > 0
    assert any(
        f"{len(some) - len(both)} words have a token in one model and none in another" in note
        for note in found.provenance["notes"]
    )


def test_intervals_and_samples_of_two_tokenizers(two):
    texts = [f"{first} {second}" for first in HOSTILE for second in HOSTILE]
    options = {"measures": ["rsa", "knn_overlap"], "intervals": "jackknife", "groups": 5}
    one, four = (
        bertft.compare(*map(str, two), texts, limit=300, batch_size=size, **options)
        for size in (1, 4)
    )
    for name in ("value", "low", "high"):
        np.testing.assert_allclose(one.table[name], four.table[name], atol=2e-5)
    assert one.table["low"].notna().all()


def test_a_slow_tokenizer_is_refused(two, make_model):
    class Slow:
        is_fast = False
        pad_token_id = cls_token_id = None
        model_max_length = 512

        def num_special_tokens_to_add(self, pair=False):
            return 2

    with pytest.raises(
        ValueError, match="must tell character offsets and word ids, got Slow; save"
    ):
        bertft.compare(make_model(), make_model(seed=1), HOSTILE, tokenizer=Slow())


def pairs_of_texts():
    firsts, seconds = HOSTILE[:8], HOSTILE[2:] * 2
    return [pair_of(a, b) for a, b in zip(firsts, seconds, strict=False)]


@pytest.mark.parametrize("name", ["uncased", "bytes"])
def test_pairs_are_the_inputs_that_models_are_tuned_on(tokenizers, make_model, name):
    """Token ids, token types, and the rows of each segment."""
    tokenizer, texts = tokenizers[name], pairs_of_texts()
    encoding = encode_rows(texts, tokenizer, "words", specials=True)
    for text, own in zip(texts, encoding, strict=True):
        told = tokenizer(text.text, text.second.text)
        assert own.ids.tolist() == told["input_ids"]
        sequence = [-1 if of is None else of for of in told.sequence_ids()]
        types = own.types.tolist() if own.types is not None else [0] * len(own.ids)
        assert types == (told["token_type_ids"] if name == "uncased" else [0] * len(own.ids))
        for number, segment in enumerate(SEGMENTS):
            kept = (own.segments == number) & (own.stops > own.starts)
            runs = list(zip(own.starts[kept].tolist(), own.stops[kept].tolist(), strict=True))
            if segment == "special":
                assert runs == [(i, i + 1) for i, of in enumerate(sequence) if of == -1]
                continue
            part = text.segments[number - 1]
            alone = [run for run in runs_of_characters(part, tokenizer) if run is not None]
            origin = sequence.index(number - 1) - int(
                np.flatnonzero(
                    encode([part], tokenizer).texts[0].ids == own.ids[sequence.index(number - 1)]
                )[0]
            )
            assert runs == [(i + origin, j + origin) for i, j in alone]
    assert [len(text.starts) for text in of_segment(encoding, 0)] == [
        tokenizer.num_special_tokens_to_add(pair=True)
    ] * len(texts)


def test_token_types_reach_models_that_have_them(tokenizers, make_model):
    from bertft.capture import capture

    tokenizer, texts = tokenizers["uncased"], pairs_of_texts()
    rows = encode(texts, tokenizer)
    side = bert(tokenizer, make_model)
    assert side.has_token_types
    assert not bert(tokenizer, make_model, type_vocab_size=1).has_token_types
    assert not Checkpoint.open(make_model("distilbert"), None, tokenizer).has_token_types
    assert not Checkpoint.open(make_model("gpt2"), None, tokenizer).has_token_types
    with inference(side.encoder):
        for group in batches(rows, 3, 10**6):
            batch = pad(group, 0)
            told = tokenizer(
                [texts[own.place].text for own in group],
                [texts[own.place].second.text for own in group],
                padding=True,
                return_tensors="pt",
            )
            assert torch.equal(batch.ids, told["input_ids"])
            assert torch.equal(batch.types, told["token_type_ids"])
            states = side.encoder(**told, output_hidden_states=True).hidden_states
            seen = []

            def receive(layer, hidden, seen=seen):
                seen.append(hidden)

            capture(side.encoder, side.blocks, batch.ids, batch.mask, receive, types=batch.types)
            assert all(torch.equal(a, b) for a, b in zip(seen, states, strict=True))


def test_cuts_of_pairs_are_of_their_text(tokenizers):
    """The longer text is cut first; words of the other one that have no piece are not cut."""
    short, long = "the \u200d words", HOSTILE[0]
    for first, second in ((short, long), (long, short)):
        rows = encode([pair_of(first, second)], tokenizers["cased"], max_length=18)
        assert rows.dropped_words == 1
        assert rows.truncated_texts == 1
        assert rows.n + rows.truncated_words == 2 + len(long.split())
        assert rows.truncated_words > 0


def pieces_at(encoding, number, span):
    """Positions of the pieces that cover a character of a span of a text of the input."""
    return [
        position
        for position, (start, stop) in enumerate(encoding.offsets)
        if encoding.sequence_ids[position] == number and start < span[1] and span[0] < stop
    ]


@pytest.mark.parametrize("max_length", [7, 12, 24])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["uncased", "bytes"])
def test_words_are_cut_where_a_piece_is_missing(tokenizers, name, side, max_length):
    """On either side, in the middle of a character that takes several bytes too."""
    tokenizer = copy.deepcopy(tokenizers[name])
    tokenizer.truncation_side = side
    texts = [Text.of(f"\U0001f1eb\U0001f1f7 {text} \U0001f44d\U0001f3fd") for text in HOSTILE[:-1]]
    texts += [pair_of(a.text, b.text) for a, b in zip(texts, texts[3:], strict=False)]
    for text, own in zip(texts, encode_words(texts, tokenizer, max_length), strict=True):
        parts = [part.text for part in text.segments]
        whole = tokenizer(*parts).encodings[0]
        left = tokenizer(*parts, truncation=True, max_length=max_length).encodings[0]
        expected = []
        for number, part in enumerate(text.segments):
            for span in part.words:
                kept = pieces_at(left, number, span)
                missing = len(pieces_at(whole, number, span)) - len(kept)
                expected.append((kept[0], kept[-1] + 1) if kept and not missing else None)
        runs = zip(own.starts.tolist(), own.stops.tolist(), strict=True)
        assert [(a, b) if b > a else None for a, b in runs] == expected
        assert own.is_cut == (len(whole.ids) > len(left.ids))
        assert (own.stops == CUT_OFF).any() == own.is_cut


def test_special_tokens_spelled_out_are_no_words(tokenizers):
    """Those that no part of the tokenizer names, and the one that also stands for the unknown."""
    tokenizer = copy.deepcopy(tokenizers["bytes"])
    tokenizer.unk_token = "</s>"
    tokenizer.add_special_tokens({"mask_token": "<turn>"})
    tokenizer.mask_token = None
    assert "<turn>" not in tokenizer.all_special_tokens
    rows = encode([Text.of("one <turn> two </s> three")], tokenizer)
    assert (rows.n, rows.dropped_words) == (3, 2)
    unknown = encode([Text.of("the \u4e00\u4e01 words")], tokenizers["uncased"])
    assert (unknown.n, unknown.dropped_words) == (3, 0)


@pytest.mark.parametrize("name", ["uncased", "bytes"])
def test_single_pieces_of_words(tokenizers, name):
    texts = [*pairs_of_texts(), *map(Text.of, HOSTILE)]
    means, firsts, lasts = (
        encode(texts, tokenizers[name], pieces=pieces) for pieces in ("mean", "first", "last")
    )
    assert means.n == firsts.n == lasts.n
    assert means.dropped_words == firsts.dropped_words == lasts.dropped_words
    for whole, first, last in zip(means.texts, firsts.texts, lasts.texts, strict=True):
        assert np.array_equal(first.starts, whole.starts)
        assert np.array_equal(first.stops, whole.starts + 1)
        assert np.array_equal(last.stops, whole.stops)
        assert np.array_equal(last.starts, whole.stops - 1)


def test_classification_tokens_are_rows(tokenizers, make_model):
    for name in ("uncased", "bytes"):
        rows = encode([*pairs_of_texts(), Text.of("x")], tokenizers[name], "cls")
        assert all(own.starts.tolist() == [0] for own in rows.texts)
        assert {int(own.ids[0]) for own in rows.texts} == {tokenizers[name].cls_token_id}
    message = r"must give texts a classification token for rows of 'cls', got .* use words or tok"
    bare = type(tokenizers["bytes"])(tokenizer_object=tokenizers["bytes"].backend_tokenizer)
    for cls_token in (None, "the"):
        bare.cls_token = cls_token
        with pytest.raises(ValueError, match=message):
            encode([Text.of("the words")], bare, "cls")


def test_the_classification_token_is_not_one_that_a_text_spells(tokenizers):
    """It may come last, as XLNet's does."""
    from tokenizers import Tokenizer, processors

    rules = Tokenizer.from_str(tokenizers["bytes"].backend_tokenizer.to_str())
    rules.post_processor = processors.TemplateProcessing(
        single="$A </s> <s>", special_tokens=[("</s>", 1), ("<s>", 0)]
    )
    last = type(tokenizers["bytes"])(tokenizer_object=rules, cls_token="<s>", sep_token="</s>")
    texts = [Text.of("a <s> b"), Text.of("<s>"), Text.of("words")]
    for own in encode(texts, last, "cls").texts:
        assert own.starts.tolist() == [len(own.ids) - 1]
