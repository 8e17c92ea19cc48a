"""What tasks make of examples and of predictions: inputs, windows and scores, by hand."""

import math
import random
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bertft.corpora import Text
from bertft.corpora.conllu import Tree, read_trees, universal
from bertft.corpora.nli import LABELS, Pair
from bertft.corpora.squad import Question, read_questions
from bertft.finetuning.depparse import DependencyParsing, attachment_scores
from bertft.finetuning.mnli import InferencePairs
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.squad import (
    QuestionAnswering,
    answer_scores,
    exact_match,
    likeliest_span,
    normalize_answer,
    token_f1,
    windows,
)
from bertft.finetuning.tagging import PartOfSpeechTagging
from bertft.finetuning.tasks import TASKS, Predict, Tokens, by_length, task_of, word_of_piece
from tests.conftest import WORDS, tiny_config

DEPPARSE, MNLI, SQUAD = DependencyParsing(), InferencePairs(), QuestionAnswering()
TAGGING = PartOfSpeechTagging()


def tree(words, heads, labels):
    words = tuple(words.split())
    return Tree(words, ("X",) * len(words), tuple(heads), tuple(labels.split()), "", 1)


FIRST = tree("the old cat sat .", (3, 3, 4, 0, 4), "det amod nsubj root punct")
SECOND = tree("a dog ran", (2, 3, 0), "det nsubj:pass root")
QUIET = tree(". .", (0, 1), "punct punct")


def test_attachment_scores_by_hand():
    parsed = [
        # Right; wrong head; right head and wrong label; right; wrong head of punctuation.
        ((3, 4, 4, 0, 3), ("det", "amod", "obj", "root", "punct")),
        # A subtype too many and one too few are right; a wrong label on the root.
        ((2, 3, 0), ("det:poss", "nsubj", "dep")),
    ]
    values, n = attachment_scores([FIRST, SECOND], parsed)
    assert n == 8
    assert list(values) == ["las", "uas", "las_no_punct", "uas_no_punct"]
    hits = {"las": 4 / 8, "uas": 6 / 8, "las_no_punct": 4 / 7, "uas_no_punct": 6 / 7}
    assert values == pytest.approx({name: 100 * hit for name, hit in hits.items()})


def test_words_are_pooled_over_sentences():
    right = FIRST.heads, FIRST.labels
    wrong = (0, 1, 1), ("det", "det", "det")
    values, _ = attachment_scores([FIRST, SECOND], [right, wrong])
    assert values["uas"] == pytest.approx(100 * 5 / 8)
    assert values["uas_no_punct"] == pytest.approx(100 * 4 / 7)


def test_what_is_punctuation_is_for_the_treebank_to_say():
    values, _ = attachment_scores([SECOND], [(SECOND.heads, ("punct", "nsubj", "punct"))])
    assert values["las_no_punct"] == pytest.approx(100 / 3)
    subtype = tree("cat ,", (0, 1), "root punct:comma")
    values, _ = attachment_scores([subtype], [((0, 0), ("root", "punct"))])
    assert values == {"las": 50, "uas": 50, "las_no_punct": 100, "uas_no_punct": 100}


def test_nothing_but_punctuation_has_no_scores_without_it():
    values, n = attachment_scores([QUIET], [((0, 1), ("punct", "dep"))])
    assert (values, n) == ({"las": 50, "uas": 100}, 2)


class GoldTrees(nn.Module):
    """Predicts what the rows say, as a parser that is always right would."""

    def __init__(self, labels):
        super().__init__()
        self.labels = len(labels)

    @property
    def model(self):
        return self

    def label_scores(self, nodes, heads):
        return nodes[:, 1:]

    def forward(self, rows):
        for numbers in by_length(rows, 32):
            n = max(len(rows[i]["heads"]) for i in numbers)
            arcs = torch.zeros(len(numbers), n, n + 1)
            nodes = torch.zeros(len(numbers), n + 1, self.labels)
            for row, i in enumerate(numbers):
                for word, head in enumerate(rows[i]["heads"]):
                    arcs[row, word, head] = 1
                    if (label := rows[i]["labels"][word]) >= 0:
                        nodes[row, word + 1, label] = 1
            yield numbers, SimpleNamespace(arcs=arcs, nodes=nodes)


def test_labels_that_training_lacks_count_as_wrong_and_are_told(tokenizer):
    labels = ("det", "nsubj", "punct", "root")
    tokens = Tokens(tokenizer, DEPPARSE.recipe)
    scores = DEPPARSE.score(tokens, [FIRST, SECOND, FIRST], labels, GoldTrees(labels))
    assert scores.values["uas"] == 100
    assert scores.values["las"] == pytest.approx(100 * 11 / 13)
    assert scores.n == 13
    assert scores.notes == [
        "2 words have labels that the training trees lack and count as wrong: amod (2)"
    ]
    found = scores.predictions[1]
    assert (found["heads"], found["labels"]) == ([2, 3, 0], ["det", "nsubj", "root"])
    assert (found["id"], found["line"]) == (SECOND.id, SECOND.line)
    known = (*labels, "amod")
    assert not DEPPARSE.score(tokens, [FIRST], known, GoldTrees(known)).notes


def test_labels_are_those_of_training_without_subtypes(tokenizer):
    examples = SimpleNamespace(items=[SECOND, FIRST])
    labels = DEPPARSE.labels(examples)
    assert labels == ("amod", "det", "nsubj", "punct", "root")
    rows = DEPPARSE.features(Tokens(tokenizer, DEPPARSE.recipe), [SECOND], ("det", "nsubj"))
    assert rows[0]["labels"] == [0, 1, -100]


def test_words_that_are_cut_off_are_told(tokenizer):
    tokens = Tokens(tokenizer, DEPPARSE.recipe.with_settings(max_length=5))
    labels = ("det", "amod", "nsubj", "root", "punct")
    scores = DEPPARSE.score(tokens, [FIRST, SECOND], labels, GoldTrees(labels))
    assert scores.values["las"] == 100
    assert scores.notes == ["2 words have no piece (cut off, or unknown to the tokenizer)"]


def test_a_real_parser_is_scored_in_any_order(tokenizer):
    from bertft.finetuning.biaffine import BiaffineParser

    trees = [SECOND, FIRST, QUIET, tree("cat", (0,), "root"), FIRST, SECOND]
    labels = DEPPARSE.labels(SimpleNamespace(items=trees))
    torch.manual_seed(0)
    parser = BiaffineParser(tiny_config("bert", id2label=dict(enumerate(labels))))
    with torch.no_grad():
        for parameter in parser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    found = []
    for batch_size in (1, 4):
        tokens = Tokens(tokenizer, DEPPARSE.recipe.with_settings(batch_size=batch_size))
        predict = Predict(parser, DEPPARSE.collate, tokens)
        found.append(DEPPARSE.score(tokens, trees, labels, predict))
    assert found[0].predictions == found[1].predictions
    parsed = [(line["heads"], line["labels"]) for line in found[0].predictions]
    assert [len(heads) for heads, _ in parsed] == [3, 5, 2, 1, 5, 3]
    assert parsed[1] == parsed[4]
    assert parsed[3][0] == [0]
    assert attachment_scores(trees, parsed)[0] == found[0].values
    assert parser.training


@pytest.mark.real
def test_gold_trees_score_100_on_a_treebank(shared):
    from bertft.checkpoints import load_tokenizer

    trees = read_trees(shared / "data" / "ud_english_ewt" / "en_ewt-ud-dev.conllu")
    labels = DEPPARSE.labels(SimpleNamespace(items=trees))
    tokens = Tokens(load_tokenizer(str(shared / "models" / "minilm")), DEPPARSE.recipe)
    scores = DEPPARSE.score(tokens, trees, labels, GoldTrees(labels))
    assert set(scores.values.values()) == {100}
    assert (scores.n, list(scores.notes)) == (25147, [])
    bare = [(found.heads, [universal(label) for label in found.labels]) for found in trees]
    assert attachment_scores(trees, bare) == (dict(scores.values), scores.n)


def byte_pair_tokenizer(*, trimmed):
    """A byte-level BPE tokenizer; offsets take in the space before a word, as GPT-2's, or not."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
    )
    made.train_from_iterator(["the cat sat on the mat .", "a dog saw the cat"] * 4, trainer)
    made.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=trimmed)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>", model_max_length=64
    )


@pytest.fixture(params=[False, True], ids=["spaces", "trimmed"])
def byte_pairs(request):
    return byte_pair_tokenizer(trimmed=request.param)


@pytest.fixture(params=["word-pieces", "byte-pairs-spaces", "byte-pairs-trimmed"])
def any_tokenizer(request, tokenizer):
    if request.param == "word-pieces":
        return tokenizer
    return byte_pair_tokenizer(trimmed=request.param.endswith("trimmed"))


def pieces_of(tokenizer, words, **options):
    text = Text.of_words(words)
    encoded = tokenizer(text.text, return_offsets_mapping=True, **options)
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    return list(zip(names, word_of_piece(text, encoded["offset_mapping"]), strict=True))


def test_word_pieces_know_their_word(tokenizer):
    assert pieces_of(tokenizer, ["the", "player", "sat", "."]) == [
        ("[CLS]", -1),
        ("the", 0),
        ("play", 1),
        ("##er", 1),
        ("sat", 2),
        (".", 3),
        ("[SEP]", -1),
    ]


def test_a_word_that_the_tokenizer_splits_stays_one(tokenizer):
    found = pieces_of(tokenizer, ["sat.on", "the", "a , b"])
    assert [word for _, word in found] == [-1, 0, 0, 0, 1, 2, 2, 2, -1]


def test_byte_pieces_know_their_word(byte_pairs):
    found = pieces_of(byte_pairs, ["the", "cat", "saw", "é中", "the"])
    assert [name.replace("Ġ", "_") for name, _ in found][:3] == ["the", "_cat", "_saw"]
    owners = [word for _, word in found]
    # A piece that is nothing but the space belongs to no word.
    assert owners == [0, 1, 2, *[-1] * (found[3][0] == "Ġ"), *[3] * 5, 4]


def tagged(words, tags):
    return Tree(tuple(words.split()), tuple(tags.split()), (), (), "s", 7)


def test_the_first_piece_of_a_word_carries_its_tag(tokenizer):
    # "played" and "cats" have two pieces each.
    sentence = tagged("the cats played", "DET NOUN VERB")
    labels = TAGGING.labels(SimpleNamespace(items=[sentence, tagged("a dog", "DET NOUN")]))
    assert labels == ("DET", "NOUN", "VERB")
    [row] = TAGGING.features(Tokens(tokenizer, TAGGING.recipe), [sentence], ("DET", "VERB"))
    assert row["words"] == [-1, 0, 1, 1, 2, 2, -1]
    assert row["labels"] == [-100, 0, -100, -100, 1, -100, -100]


def test_words_are_scored_by_the_tag_of_their_first_piece(tokenizer):
    trees = [
        tagged("the cats played .", "DET NOUN VERB PUNCT"),
        tagged("a dog ran under on the mat", "DET NOUN X ADV ADP DET NOUN"),
    ]
    labels = ("DET", "NOUN", "PUNCT", "VERB")

    def predict(rows):
        for numbers in by_length(rows, 1):
            [i] = numbers
            logits = torch.zeros(1, len(rows[i]["words"]) + 2, len(labels))
            for piece, word in enumerate(rows[i]["words"]):
                # Later pieces of a word say VERB, which must not count.
                first = rows[i]["words"].index(word) == piece
                guess = (
                    3 if not first or word == 2 else labels.index("DET" if word == 0 else "NOUN")
                )
                logits[0, piece, guess] = 1
            yield numbers, SimpleNamespace(logits=logits)

    tokens = Tokens(tokenizer, TAGGING.recipe.with_settings(max_length=8))
    scores = TAGGING.score(tokens, trees, labels, predict)
    # The last word is cut off, and would have been right.
    assert [line["tags"] for line in scores.predictions] == [
        ["DET", "NOUN", "VERB", "NOUN"],
        ["DET", "NOUN", "VERB", "NOUN", "NOUN", "NOUN", ""],
    ]
    assert scores.values == {"accuracy": pytest.approx(100 * 5 / 11)}
    assert scores.n == 11
    assert scores.notes == [
        "3 words have labels that the training trees lack and count as wrong: X (1), ADV (1), "
        "ADP (1)",
        "1 words have no piece (cut off, or unknown to the tokenizer)",
    ]


def test_pairs_are_scored_by_their_likeliest_label(tokenizer):
    pairs = [
        Pair("the cat sat", "a dog ran and played on the hill", LABELS[0], 1),
        Pair("the cat sat on the mat", "a cat sat", LABELS[1], 2),
        Pair("the", "a", LABELS[2], 3),
        Pair("a dog", "a cat", LABELS[2], 4),
        Pair("a boat", "a boat", LABELS[0], 5),
    ]
    guesses = [0, 1, 0, 2, 1]

    def predict(rows):
        for numbers in by_length(rows, 2):
            logits = torch.zeros(len(numbers), 3)
            for row, i in enumerate(numbers):
                logits[row, guesses[i]] = 1
            yield numbers, SimpleNamespace(logits=logits)

    scores = MNLI.score(Tokens(tokenizer, MNLI.recipe), pairs, LABELS, predict)
    assert (scores.values, scores.n) == ({"accuracy": 60}, 5)
    assert [line["label"] for line in scores.predictions] == [LABELS[guess] for guess in guesses]
    assert [line["line"] for line in scores.predictions] == [pair.line for pair in pairs]


def test_pairs_are_two_segments_and_the_longer_is_cut(tokenizer):
    pair = Pair("the cat sat on the mat", "a dog", "contradiction", 1)
    row = MNLI.features(Tokens(tokenizer, MNLI.recipe), [pair], LABELS)[0]
    text = "[CLS] the cat sat on the mat [SEP] a dog [SEP]"
    assert tokenizer.decode(row["input_ids"]) == text
    assert row["token_type_ids"] == [0] * 8 + [1] * 3
    assert row["labels"] == 2
    short = MNLI.recipe.with_settings(max_length=8)
    row = MNLI.features(Tokens(tokenizer, short), [pair], LABELS)[0]
    assert tokenizer.decode(row["input_ids"]) == "[CLS] the cat sat [SEP] a dog [SEP]"


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat,\n the mat.", "cat mat"),
        ("an A-Team", "ateam"),
        ("theatre, another, anna", "theatre another anna"),
        ("U.S.A.", "usa"),
        ("the", ""),
        ("...", ""),
        # Only ASCII punctuation goes, and an article beside a letter mark is a word still.
        ("“the”—x", "“ ”—x"),
        ("l'a", "la"),
        ("1,000 %", "1000"),
        ("STRASSE ß", "strasse ß"),
    ],
)
def test_answers_are_normalized_as_in_the_official_script(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("answer", "gold", "f1", "em"),
    [
        ("the cat", "Cat.", 1, True),
        ("black cat", "cat", 2 / 3, False),
        ("cat", "dog", 0, False),
        # A token counts as often as both have it: 2 of 3 and 2 of 2.
        ("cat cat cat", "cat cat", 0.8, False),
        ("cat dog", "dog cat", 1, False),
        ("new york city", "york new", 0.8, False),
        # Nothing is left of either: no token in common, but equal.
        ("the", "a", 0, True),
        ("", "...", 0, True),
        ("", "cat", 0, False),
    ],
)
def test_f1_and_exact_match_by_hand(answer, gold, f1, em):
    assert token_f1(answer, gold) == pytest.approx(f1, rel=1e-12)
    assert exact_match(answer, gold) == em


def reference_scores(answer, gold):
    """F1 and EM by the definition of SQuAD 1.1: harmonic mean of precision and recall."""

    def normalized(text):
        kept = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    own, other = normalized(answer), normalized(gold)
    rest, shared = list(other), 0
    for token in own:
        if token in rest:
            rest.remove(token)
            shared += 1
    if not shared:
        return 0.0, own == other
    precision, recall = shared / len(own), shared / len(other)
    return 2 * precision * recall / (precision + recall), own == other


def test_scores_agree_with_their_definition_on_random_answers():
    draw = random.Random(0)
    vocabulary = ["the", "A", "an", "Cat", "cat's", "dog", "-", ".", "x-y", "mat,", "1,5"]
    f1s = set()
    for _ in range(500):
        answer, gold = (" ".join(draw.choices(vocabulary, k=draw.randrange(5))) for _ in "ab")
        f1, em = reference_scores(answer, gold)
        assert token_f1(answer, gold) == pytest.approx(f1, rel=1e-12)
        assert exact_match(answer, gold) == em
        f1s.add(round(f1, 6))
    assert len(f1s) > 8


def question(name, *answers, context="", asked="who ?"):
    return Question(name, asked, context, tuple((text, context.find(text)) for text in answers))


def test_the_best_gold_answer_counts_and_a_missing_prediction_is_wrong():
    asked = [
        question("1", "the cat", "black cat", "dog"),
        question("2", "cat"),
        question("3", "cat"),
        question("4", "red cat", "blue dog"),
    ]
    # For question 4, no gold answer has both tokens of the prediction.
    answers = {"1": "a black cat", "2": "dog", "4": "red dog", "unasked": "cat"}
    values = answer_scores(asked, answers)
    assert list(values) == ["f1", "em"]
    assert values == pytest.approx({"f1": 100 * 1.5 / 4, "em": 25})


def test_an_empty_prediction_is_no_missing_one():
    asked = [question("1", "the")]
    assert answer_scores(asked, {"1": ""}) == {"f1": 0, "em": 100}
    assert answer_scores(asked, {}) == {"f1": 0, "em": 0}


def brute_force(starts, ends, offsets):
    best = -math.inf, (-1, -1)
    for first in range(len(offsets)):
        for last in range(first, min(first + 30, len(offsets))):
            if offsets[first, 0] >= 0 and offsets[last, 0] >= 0:
                best = max(best, (float(starts[first] + ends[last]), (first, last)))
    score, (first, last) = best
    return score, (int(offsets[first, 0]), int(offsets[last, 1]))


def context_offsets(before, tokens, after=1):
    """Offsets of a window: a question, tokens of three characters with a space, and a separator."""
    inside = np.arange(tokens)[:, None] * 4 + np.array([0, 3])
    outside = [np.full((n, 2), -1) for n in (before, after)]
    return np.concatenate([outside[0], inside, outside[1]]).astype(np.int32)


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("tokens", [1, 2, 29, 30, 31, 100])
def test_the_likeliest_span_is_that_of_brute_force(tokens, padding):
    rng = np.random.default_rng(tokens)
    offsets = context_offsets(5, tokens)
    for _ in range(20):
        starts, ends = rng.normal(size=(2, len(offsets) + padding)).astype(np.float32)
        # What lies outside of the context would win, were it allowed.
        for logits in (starts, ends):
            logits[:5] += 100
            logits[5 + tokens :] += 100
        score, span = likeliest_span(starts, ends, offsets)
        assert (score, span) == brute_force(starts, ends, offsets)


def test_a_span_has_30_tokens_at_most_and_does_not_run_backwards():
    offsets = context_offsets(3, 60)
    starts, ends = np.zeros((2, len(offsets)), np.float32)
    starts[10], ends[39] = 10, 10
    assert likeliest_span(starts, ends, offsets) == (20, (7 * 4, 36 * 4 + 3))
    ends[39], ends[40] = 0, 10
    score, (start, stop) = likeliest_span(starts, ends, offsets)
    assert score == 10
    assert (start, stop) != (7 * 4, 37 * 4 + 3)
    ends[40], ends[9] = 0, 10
    assert likeliest_span(starts, ends, offsets)[0] == 10


def window_tokens(tokenizer, **settings):
    return Tokens(tokenizer, SQUAD.recipe.with_settings(**settings))


def inside(row):
    """Offsets of the context's tokens in a window."""
    return [tuple(span) for span in row["offsets"].tolist() if span[0] >= 0]


LONG = " ".join(f"{letter} cat sat on {letter}x" for letter in "bcdfghjk")
LONG_QUESTIONS = [
    question("1", "sat", context=LONG, asked="the cat sat"),
    question("2", "mat", context="the mat", asked="a dog saw"),
    question("3", "on kx", context=LONG, asked=" the cat"),
]


@pytest.mark.parametrize("stride", [0, 1, 4])
def test_windows_cover_the_context_with_the_stride_as_overlap(any_tokenizer, stride):
    tokenizer = any_tokenizer
    rows = windows(window_tokens(tokenizer, max_length=24, doc_stride=stride), LONG_QUESTIONS)
    assert {len(row["input_ids"]) for row in rows if row["question"] != 1} >= {24}
    for number, asked in enumerate(LONG_QUESTIONS):
        own = [inside(row) for row in rows if row["question"] == number]
        whole = tokenizer(asked.context, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        found = own[0] + [span for spans in own[1:] for span in spans[stride:]]
        assert found == whole
        assert all(a[len(a) - stride :] == b[:stride] for a, b in pairwise(own))
        assert (len(own) > 1) == (number != 1)


def test_offsets_point_at_the_text_of_their_tokens(any_tokenizer):
    tokenizer = any_tokenizer
    rows = windows(window_tokens(tokenizer, max_length=24, doc_stride=4), LONG_QUESTIONS)
    for row in rows:
        asked = LONG_QUESTIONS[row["question"]]
        at = np.flatnonzero(row["offsets"][:, 0] >= 0)
        assert list(at) == list(range(at[0], at[-1] + 1))
        for place in at:
            start, stop = row["offsets"][place]
            name = (
                tokenizer.decode([row["input_ids"][place]]).removeprefix("## ").removeprefix("##")
            )
            assert name.strip() == asked.context[start:stop].strip()
        ids = row["input_ids"][: at[0]]
        told = tokenizer.decode(ids, skip_special_tokens=True)
        # Without special tokens, a line end parts the texts.
        separated = tokenizer.num_special_tokens_to_add(pair=True) > 0
        assert told == asked.question.strip() + ("" if separated else "\n")
        assert row["offsets"].dtype == np.int32


def test_long_questions_are_cut_to_64_tokens(tokenizer):
    words = WORDS.split()[:10] * 7
    asked = question("1", "mat", context="the mat", asked=" ".join(words))
    short = question("2", "mat", context="the mat", asked=" ".join(words[:64]))
    rows = windows(window_tokens(tokenizer, max_length=80, doc_stride=4), [asked, short])
    assert rows[0]["input_ids"] == rows[1]["input_ids"]
    assert tokenizer.decode(rows[0]["input_ids"][1:65]) == short.question
    assert len(rows[0]["input_ids"]) == 64 + 3 + 2


def test_a_question_is_not_cut_inside_a_character(byte_pairs):
    # Three bytes each: the 64th token is the first byte of the 22nd character.
    asked = question("1", "cat", context="the cat " * 20, asked="中" * 60)
    whole = windows(window_tokens(byte_pairs, max_length=75, doc_stride=9), [asked])
    short = question("1", "cat", context="the cat " * 20, asked="中" * 21)
    cut = windows(window_tokens(byte_pairs, max_length=75, doc_stride=9), [short])
    assert [row["input_ids"] for row in whole] == [row["input_ids"] for row in cut]


@pytest.mark.parametrize("words", [64, 65, 80])
def test_a_question_is_cut_before_the_space(byte_pairs, words):
    asked = " ".join((["the", "cat"] * 40)[:words])
    asked = question("1", "cat", context="the cat", asked=asked)
    row = windows(Tokens(byte_pairs, SQUAD.recipe), [asked])[0]
    assert sum(row["offsets"][:, 0] < 0) == 64 + 1  # and the line end


def test_cutting_does_not_count_special_tokens_or_pieces_of_the_context(tokenizer):
    asked = question("1", "mat", context="mat " * 30, asked="the player " * 40)
    rows = windows(window_tokens(tokenizer, max_length=77, doc_stride=2), [asked])
    assert {sum(row["offsets"][:, 0] < 0) for row in rows} == {64 + 3}
    assert [len(inside(row)) for row in rows] == [10, 10, 10, 6]


@pytest.mark.parametrize(("stride", "length"), [(9, 14), (20, 14), (1, 6)])
def test_a_stride_that_leaves_no_room_is_told(tokenizer, stride, length):
    tokens = window_tokens(tokenizer, max_length=length, doc_stride=stride)
    told = (
        rf"^\[finetune\] doc_stride must be less than the {length - 5} tokens that a question of 2 "
        rf"leaves in a window of {length}, got {stride}; pass a shorter stride or a larger "
        r"max_length\.$"
    )
    with pytest.raises(ValueError, match=told):
        windows(tokens, [question("1", "cat", context="the cat sat", asked="old cat")])


def test_windows_without_room_for_context_are_told(tokenizer):
    tokens = window_tokens(tokenizer, max_length=5, doc_stride=0)
    told = (
        r"^\[finetune\] max_length must leave room for context beside a question of 2 tokens, got 5"
    )
    with pytest.raises(ValueError, match=told):
        windows(tokens, [question("1", "cat", context="the cat sat", asked="old cat")])


def test_the_longest_stride_that_leaves_room_works(tokenizer):
    asked = question("1", "cat", context="the cat sat on the old red mat .", asked="old cat")
    rows = windows(window_tokens(tokenizer, max_length=9, doc_stride=3), [asked])
    assert [len(inside(row)) for row in rows] == [4] * 6


def answers_of(rows, asked):
    """Text of the gold span of each window that has one; the others point at (0, 0)."""
    found = []
    for row in rows:
        first, last = row["span"]
        if (first, last) == (0, 0):
            found.append(None)
        else:
            assert 0 < first <= last
            start, stop = row["offsets"][first, 0], row["offsets"][last, 1]
            found.append(asked[row["question"]].context[start:stop])
    return found


def test_windows_point_at_the_answer_or_at_the_first_token(any_tokenizer):
    tokenizer = any_tokenizer
    context = "a cat sat on red hills . the dog ran under the old boat , and a player saw it"
    for text in ("a cat", "red hills", "hills . the", "old boat", "boat", "it", "player saw"):
        asked = [question("1", text, context=context)]
        start = context.find(text)
        tokens = window_tokens(tokenizer, max_length=22, doc_stride=5)
        rows = SQUAD.features(tokens, asked, ())
        found = answers_of(rows, asked)
        assert any(found)
        for row, answer in zip(rows, found, strict=True):
            spans = inside(row)
            has = spans[0][0] <= start and spans[-1][1] >= start + len(text)
            assert (answer is not None) == has
            if has:
                assert exact_match(answer, text)


def test_an_answer_of_one_character_in_several_bytes_has_a_span(byte_pairs):
    asked = [Question("1", "who ?", "the café 中 saw", (("中", 9),))]
    row = SQUAD.features(Tokens(byte_pairs, SQUAD.recipe), asked, ())[0]
    first, last = row["span"]
    assert byte_pairs.decode(row["input_ids"][first : last + 1]).strip() == "中"


@pytest.mark.parametrize("answer", [" cat ", "cat ", " cat"])
def test_spaces_around_an_answer_add_no_token(tokenizer, answer):
    asked = [question("1", answer, context="the old cat sat")]
    row = SQUAD.features(Tokens(tokenizer, SQUAD.recipe), asked, ())[0]
    assert answers_of([row], asked) == ["cat"]


def test_an_answer_inside_a_piece_takes_the_piece(tokenizer):
    asked = [question("1", "at", context="the old cat sat")]
    row = SQUAD.features(Tokens(tokenizer, SQUAD.recipe), asked, ())[0]
    assert answers_of([row], asked) == ["cat"]


def test_the_first_answer_is_the_one_to_learn(tokenizer):
    asked = [Question("1", "who ?", "a cat and a dog", (("dog", 12), ("cat", 2)))]
    row = SQUAD.features(Tokens(tokenizer, SQUAD.recipe), asked, ())[0]
    assert answers_of([row], asked) == ["dog"]
    batch = SQUAD.collate([row], 0)
    assert tuple(batch["spans"][0].tolist()) == row["span"]


def test_padding_does_not_enter_the_loss(tokenizer):
    asked = [question("1", "cat", context="the cat sat"), question("2", "mat", context="a mat")]
    rows = SQUAD.features(Tokens(tokenizer, SQUAD.recipe), asked, ())
    logits = torch.randn(2, 2, 60)

    def model(input_ids, attention_mask, token_type_ids=None):
        n = input_ids.shape[1]
        return SimpleNamespace(start_logits=logits[0, :, :n], end_logits=logits[1, :, :n])

    losses = []
    for row, at in ((rows[0], 0), (rows[1], 1)):
        first, last = row["span"]
        n = len(row["input_ids"])
        for side, gold in ((0, first), (1, last)):
            losses.append(-torch.log_softmax(logits[side, at, :n], 0)[gold])
    found = SQUAD.loss(model, SQUAD.collate(rows, 0))
    torch.testing.assert_close(found, torch.stack(losses).mean())


def gold_spans(asked, tokenizer):
    """Predicts the gold span of each window, and a likely wrong one where there is none."""

    def predict(rows):
        spans = SQUAD.features(tokenizer, asked, ())
        assert len(spans) == len(rows)
        for numbers in by_length(rows, 16):
            width = max(len(rows[i]["input_ids"]) for i in numbers)
            logits = torch.zeros(2, len(numbers), width)
            for row, i in enumerate(numbers):
                first, last = spans[i]["span"]
                context = np.flatnonzero(rows[i]["offsets"][:, 0] >= 0)
                sure = (first, last) != (0, 0)
                ends = (first, last) if sure else (context[0], context[0])
                for side in (0, 1):
                    logits[side, row, ends[side]] = 3 if sure else 2
            yield numbers, SimpleNamespace(start_logits=logits[0], end_logits=logits[1])

    return predict


def test_the_likeliest_span_over_all_windows_is_the_answer(tokenizer):
    tokens = window_tokens(tokenizer, max_length=24, doc_stride=4)
    scores = SQUAD.score(tokens, LONG_QUESTIONS, (), gold_spans(LONG_QUESTIONS, tokens))
    assert (scores.values, scores.n) == ({"f1": 100, "em": 100}, 3)
    answers = {line["id"]: line["answer"] for line in scores.predictions}
    assert answers == {"1": "sat", "2": "mat", "3": "on kx"}


@pytest.fixture(scope="module")
def squad(shared):
    from bertft.checkpoints import load_tokenizer

    tokenizer = load_tokenizer(str(shared / "models" / "minilm"))
    asked = read_questions(shared / "data" / "squad" / "train_subset.json").questions
    return asked, Tokens(tokenizer, SQUAD.recipe.with_settings(max_length=320))


@pytest.mark.real
def test_gold_spans_of_squad_are_its_answers(squad):
    asked, tokens = squad
    rows = SQUAD.features(tokens, asked, ())
    found = {
        row["question"]
        for row, answer in zip(rows, answers_of(rows, asked), strict=True)
        if answer is not None and exact_match(answer, asked[row["question"]].answers[0][0])
    }
    assert len(asked) == 4000
    assert {row["question"] for row in rows} == set(range(4000))
    assert len(found) >= 0.99 * 4000


@pytest.mark.real
def test_gold_answers_of_squad_score_100(squad):
    asked, tokens = squad
    gold = {found.id: found.answers[-1][0] for found in asked}
    assert answer_scores(asked, gold) == {"f1": 100, "em": 100}
    scores = SQUAD.score(tokens, asked[:300], (), gold_spans(asked[:300], tokens))
    assert scores.values["em"] >= 99


RECIPE = Recipe(epochs=1, lr=1e-3, batch_size=4, max_length=16, doc_stride=4)


def test_settings_that_are_none_leave_the_recipe():
    assert RECIPE.with_settings(epochs=None, seed=None) == RECIPE
    changed = RECIPE.with_settings(epochs=3, head_lr=0.1)
    assert (changed.epochs, changed.head_lr, changed.lr) == (3, 0.1, 1e-3)
    assert RECIPE.epochs == 1


RATE = "must be positive and finite, got {}; 5e-5 suits most encoders, 1e-3 most heads."
REFUSED = [
    *[
        ({name: value}, f"{name} must be at least 1, got {value}; pass more.")
        for name in ("epochs", "batch_size", "accumulate", "max_length", "patience")
        for value in (0, -2)
    ],
    *[
        ({name: value}, f"{name} {RATE.format(value)}")
        for name in ("lr", "head_lr", "clip")
        for value in (0, -1e-3, math.inf, math.nan)
    ],
    ({"warmup": 1.5}, "warmup must be in [0, 1), got 1.5; pass one in that range."),
    ({"warmup": -0.1}, "warmup must be in [0, 1), got -0.1; pass one in that range."),
    (
        {"weight_decay": -0.1},
        "weight_decay must be in [0, 1), got -0.1; pass one in that range.",
    ),
    ({"doc_stride": -1}, "doc_stride must be at least 0, got -1; pass more."),
    ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'; pass its name."),
    ({"seed": -1}, "seed must be in [0, 2**32), got -1; pass another one."),
    ({"seed": 2**32}, "seed must be in [0, 2**32), got 4294967296; pass another one."),
]


@pytest.mark.parametrize(
    ("settings", "told"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(ValueError, match=f"^{re.escape(f'[finetune] {told}')}$"):
        RECIPE.with_settings(**settings)


def test_unknown_settings_are_refused():
    told = (
        "[finetune] settings must be among accumulate, batch_size, clip, doc_stride, dtype, "
        "epochs, head_lr, lr, max_length, patience, seed, warmup, weight_decay, got 'rate'; check "
        "the name."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(told)}$"):
        RECIPE.with_settings(rate=1e-3)


@pytest.mark.parametrize("task", [*map(task_of, TASKS)], ids=lambda task: task.name)
def test_the_recipes_of_tasks_are_allowed(task):
    assert task.recipe.with_settings() == task.recipe
