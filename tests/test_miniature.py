"""The miniature: its sentences, its tokenizer, its pretraining and cache, and tagging with it."""

import re
import string
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

pytest.importorskip("transformers")

import torch

from bertft.corpora.conllu import write_trees
from bertft.corpora.edges import Target, checked
from bertft.corpora.miniature import (
    DOMAINS,
    Recipe,
    Sentence,
    dependency_trees,
    entity_records,
    pretrained_miniature,
    sentences,
    tag_records,
)
from bertft.corpora.miniature.grammar import paradigms
from bertft.corpora.miniature.pretraining import vocabulary
from bertft.finetuning import finetune

UPOS = {
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
}
TINY = Recipe(
    layers=2, width=32, heads=2, intermediate=48, sentences=300, steps=60, batch_size=16, lr=5e-3
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices this small gain nothing from threads, and lose much where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return pretrained_miniature(TINY, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pieces(tiny):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def tags_of_forms(domain, n=2000):
    tags = defaultdict(Counter)
    for sentence in sentences(domain, n, seed=1):
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            tags[word.lower()][tag] += 1
    return tags


@pytest.fixture(scope="module")
def forms():
    return {domain: tags_of_forms(domain) for domain in DOMAINS}


def test_sentences_are_the_same_everywhere():
    kitchen, harbor = (sentences(domain, 1, seed=0)[0] for domain in DOMAINS)
    assert kitchen.words == ("Farmers", "called", "his", "cook", ".")
    assert kitchen.tags == ("NOUN", "VERB", "PRON", "NOUN", "PUNCT")
    assert harbor.words == ("Inspect", "five", "logs", ".")
    code = (
        "from bertft.corpora.miniature import sentences as s; print(s('harbor', 50, 7)[-1].words)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(sentences("harbor", 50, 7)[-1].words)


def test_more_sentences_only_append_and_seeds_differ():
    for domain in DOMAINS:
        assert sentences(domain, 30, seed=4)[:10] == sentences(domain, 10, seed=4)
        held_out = set(sentences(domain, 300, seed=5))
        assert len(held_out & set(sentences(domain, 300, seed=4))) < 6


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_word_has_a_universal_tag(domain):
    known = {form for paradigm in paradigms() for form in paradigm}
    seen = set()
    for sentence in sentences(domain, 1000, seed=2):
        assert len(sentence.words) == len(sentence.tags)
        seen |= set(sentence.tags)
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            assert (tag == "PUNCT") == (word in string.punctuation)
            assert (tag == "NUM" and word.isdigit()) or word.lower() in known or tag == "PUNCT"
    assert seen <= UPOS
    assert len(seen) >= 14


KINDS = {
    "kitchen": {"person", "place", "time", "substance", "food", "tool"},
    "harbor": {
        *("person", "place", "time", "substance", "craft", "goods", "tool", "weather", "speed"),
    },
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_entities_are_phrases_apart(domain):
    seen = Counter()
    for sentence in sentences(domain, 1000, seed=2):
        end = 0
        for first, last, kind in sentence.entities:
            assert end <= first < last <= len(sentence.words)
            end = last
            tags = sentence.tags[first:last]
            assert set(tags) & {"NOUN", "PROPN", "NUM"}
            assert not set(tags) & {"VERB", "AUX", "ADP", "PUNCT", "CCONJ", "SCONJ"}
            seen[kind] += 1
        inside = {word for first, last, _ in sentence.entities for word in range(first, last)}
        for word, tag in enumerate(sentence.tags):
            assert word in inside or tag not in ("NOUN", "PROPN", "NUM", "DET")
    assert set(seen) == KINDS[domain]
    assert min(seen.values()) > 50


def named(domain, number, n=2000):
    """Some entities of a domain, as their words."""
    return [
        (" ".join(sentence.words[first:last]), kind)
        for sentence in sentences(domain, n, seed=number)
        for first, last, kind in sentence.entities
    ]


def test_entities_of_the_first_sentences():
    assert named("kitchen", 0, 1) == [("Farmers", "person"), ("his cook", "person")]
    assert named("harbor", 0, 1) == [("five logs", "tool")]
    assert named("harbor", 3, 1) == [("Pilots", "person"), ("open ship Marlin", "craft")]


def test_entities_hold_all_that_stands_before_a_noun():
    found = {domain: set(named(domain, 6)) for domain in DOMAINS}
    for text, kind in (("pier 9", "place"), ("barge Pearl", "craft"), ("12 knots", "speed")):
        assert (text, kind) in found["harbor"]
    for text, kind in (("Henry", "person"), ("dawn", "time"), ("the pan", "tool")):
        assert (text, kind) in found["kitchen"]
    assert max(len(text.split()) for text, _ in found["kitchen"]) >= 4


def test_one_noun_names_two_kinds_and_only_the_sentence_tells():
    kinds = defaultdict(set)
    for text, kind in named("harbor", 1):
        kinds[text.lower()].add(kind)
    assert kinds["pilot"] == {"person", "craft"}
    assert kinds["fog"] == {"substance", "weather"}
    assert kinds["marlin"] == {"goods"}


@pytest.mark.parametrize("domain", DOMAINS)
def test_sentences_are_records_of_entities_and_of_tags(domain):
    made = sentences(domain, 100, seed=4)
    for records in (entity_records(made), tag_records(made)):
        assert checked("miniature", [("a sentence", record) for record in records]) == records
        assert [record.words for record in records] == [sentence.words for sentence in made]
    for sentence, entities, tags in zip(made, entity_records(made), tag_records(made), strict=True):
        assert entities.targets == tuple(Target(((i, j),), (k,)) for i, j, k in sentence.entities)
        assert [target.labels for target in tags.targets] == [(tag,) for tag in sentence.tags]
        assert [target.spans for target in tags.targets] == [
            ((i, i + 1),) for i in range(len(sentence.words))
        ]


@pytest.mark.parametrize(
    ("domain", "form", "tags"),
    [
        ("kitchen", "salt", {"NOUN", "VERB"}),
        ("kitchen", "that", {"DET", "PRON", "SCONJ"}),
        ("kitchen", "had", {"AUX", "VERB"}),
        ("kitchen", "before", {"ADP", "SCONJ"}),
        ("kitchen", "basil", {"NOUN", "PROPN"}),
        ("kitchen", "salted", {"ADJ", "VERB"}),
        ("kitchen", "early", {"ADJ", "ADV"}),
        ("harbor", "watch", {"NOUN", "VERB"}),
        ("harbor", "anchors", {"NOUN", "VERB"}),
        ("harbor", "clear", {"ADJ", "ADV", "VERB"}),
        ("harbor", "pearl", {"NOUN", "PROPN"}),
    ],
)
def test_forms_are_ambiguous(forms, domain, form, tags):
    assert set(forms[domain][form]) == tags


@pytest.mark.parametrize("domain", DOMAINS)
def test_tagging_needs_the_context(forms, domain):
    counts = forms[domain].values()
    best = sum(max(tags.values()) for tags in counts) / sum(sum(tags.values()) for tags in counts)
    assert 0.85 < best < 0.95


def test_domains_differ_in_lexicon_and_register(forms):
    content = {"NOUN", "VERB", "ADJ", "PROPN"}
    kitchen, harbor = (
        {form for form, tags in forms[domain].items() if content & set(tags)} for domain in DOMAINS
    )
    assert 0 < len(kitchen & harbor) < 0.25 * len(kitchen | harbor)
    articles = [forms[domain]["the"].total() for domain in DOMAINS]
    assert articles[0] > 5 * articles[1]
    assert forms["kitchen"]["was"]
    assert not forms["harbor"]["was"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("attic", 1, 0),
            "[sentences] domain must be 'kitchen' or 'harbor', got 'attic'; pass one",
        ),
        (("kitchen", 0, 0), "[sentences] n must be at least 1, got 0; ask for one or more."),
        (("kitchen", 1, -1), "[sentences] seed must be at least 0, got -1; pass another one."),
    ],
)
def test_sentences_reject(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sentences(*arguments)


def test_vocabulary_is_ordered_and_without_repeats():
    assert vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert vocabulary() == list(dict.fromkeys(vocabulary()))
    assert {"salt", "##ed", "slic", "##ing", "q", "##q"} <= set(vocabulary())


def test_tokenizer_loads_as_a_fast_one_with_a_limit(pieces):
    assert pieces.is_fast
    assert pieces.model_max_length == TINY.positions
    assert pieces.convert_ids_to_tokens(range(len(pieces))) == vocabulary()


def test_words_have_one_or_more_pieces(pieces):
    assert pieces.tokenize("Salted boats, slicing") == [
        *("salt", "##ed", "boat", "##s", ",", "slic", "##ing")
    ]
    for domain in DOMAINS:
        words = [word for s in sentences(domain, 300, seed=3) for word in s.words if word.isalpha()]
        lengths = Counter(len(pieces.tokenize(word)) for word in words)
        assert set(lengths) <= {1, 2}
        assert lengths[2] > 0.15 * lengths.total()


def test_any_printable_text_has_pieces_and_offsets(pieces):
    text = f"{string.ascii_letters} 007 {string.punctuation} supercalifragilistic~"
    encoded = pieces(text, return_offsets_mapping=True)
    assert pieces.unk_token_id not in encoded["input_ids"]
    covered = "".join(text[start:stop] for start, stop in encoded["offset_mapping"])
    assert covered == text.replace(" ", "")
    assert pieces.decode(pieces("the salted boats")["input_ids"][1:-1]) == "the salted boats"


def test_folder_holds_safetensors_that_load(tiny):
    from transformers import AutoModelForMaskedLM

    names = {path.name for path in tiny.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    model = AutoModelForMaskedLM.from_pretrained(tiny)
    assert not model.training
    assert model.config.num_hidden_layers == TINY.layers
    assert model.config.vocab_size == len(vocabulary())


def test_pretraining_learns(tiny):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(tiny)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    losses = []
    for sentence in sentences("kitchen", 100, seed=99):
        ids = torch.tensor([tokenizer(" ".join(sentence.words))["input_ids"]])
        hidden = torch.arange(2, ids.shape[1] - 1, 2)
        with torch.inference_mode():
            logits = model(ids.index_fill(1, hidden, tokenizer.mask_token_id)).logits
        losses.append(torch.nn.functional.cross_entropy(logits[0, hidden], ids[0, hidden]))
    # A guess among all pieces costs log(482) = 6.2 nats.
    assert sum(losses) / len(losses) < 5.3


def test_pretraining_repeats_and_leaves_no_trace(tiny, tmp_path, capfd):
    torch.manual_seed(3)
    before, threads, steps = torch.get_rng_state(), torch.get_num_threads(), []
    with torch.no_grad():
        again = pretrained_miniature(TINY, tmp_path, lambda *step: steps.append(step))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert steps == [(n, TINY.steps) for n in range(1, TINY.steps + 1)]
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [again]
    assert again.name == tiny.name
    files = [(folder / "model.safetensors").read_bytes() for folder in (tiny, again)]
    assert files[0] == files[1]


def refuse(*_):
    raise AssertionError("trained")


def test_second_call_only_finds(tiny):
    assert pretrained_miniature(TINY, tiny.parent, refuse) == tiny


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 1e-3}, {"layers": 3}], ids=str)
def test_another_recipe_trains_anew(tiny, change):
    with pytest.raises(AssertionError, match="trained"):
        pretrained_miniature(replace(TINY, **change), tiny.parent, refuse)


def test_another_grammar_trains_anew(tiny, monkeypatch):
    changed = [Sentence(("Salt", "."), ("VERB", "PUNCT"))]
    home = "bertft.corpora.miniature.pretraining.sentences"
    monkeypatch.setattr(home, lambda *_: changed * 20)
    with pytest.raises(AssertionError, match="trained"):
        pretrained_miniature(TINY, tiny.parent, refuse)


def test_an_interrupted_call_leaves_nothing(tmp_path):
    def interrupt(step, steps):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrained_miniature(TINY, tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_processes_wins(tiny, tmp_path):
    quick = replace(TINY, steps=2, sentences=20)
    name = pretrained_miniature(quick, tmp_path / "elsewhere").name
    theirs = tmp_path / name / "weights"

    def other_process(step, steps):
        theirs.parent.mkdir(exist_ok=True)
        theirs.write_text("theirs")

    assert pretrained_miniature(quick, tmp_path, other_process) == theirs.parent
    assert [path.name for path in theirs.parent.iterdir()] == ["weights"]
    assert {path.name for path in tmp_path.iterdir()} == {name, "elsewhere"}


def test_the_cache_is_the_users(tmp_path, monkeypatch):
    quick = replace(TINY, steps=1, sentences=20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pretrained_miniature(quick).parent == tmp_path / "bertft"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pretrained_miniature(quick).parent == tmp_path / ".cache" / "bertft"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0;"),
        ({"width": 30, "heads": 4}, "width must be a positive multiple of the 4 heads, got 30;"),
        ({"positions": 12}, "positions must be at least 128, got 12;"),
        ({"seed": -1}, "seed must be at least 0, got -1;"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0;"),
        ({"masked": 0.0}, "masked must be in (0, 1), got 0.0;"),
        ({"lr": 0.0}, "lr must be positive, got 0.0;"),
    ],
)
def test_recipes_are_checked(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(f"[pretrained_miniature] {message} change it")):
        pretrained_miniature(replace(TINY, **change), tmp_path)


def test_longest_sentences_fit(pieces):
    texts = [" ".join(s.words) for domain in DOMAINS for s in sentences(domain, 5000, seed=8)]
    assert max(map(len, pieces(texts)["input_ids"])) < 100


def test_a_miniature_learns_to_tag(tiny, tmp_path):
    files = {}
    for seed, (part, n) in enumerate((("train", 400), ("dev", 100)), start=1):
        files[part] = tmp_path / f"{part}.conllu"
        write_trees(dependency_trees(sentences("kitchen", n, seed=seed)), files[part])
    tuned = finetune(
        "tagging", tiny, *files.values(), tmp_path / "out", lr=5e-3, head_lr=5e-3, epochs=4
    )
    tags = Counter(tag for sentence in sentences("kitchen", 100, seed=2) for tag in sentence.tags)
    [row] = tuned.table.itertuples()
    assert row.n == tags.total()
    commonest = 100 * tags.most_common(1)[0][1] / tags.total()
    assert row.value > 80 > 2 * commonest


def test_importing_the_miniature_is_cheap():
    code = (
        "import sys, bertft.corpora.miniature; "
        "print([m for m in ('torch', 'transformers', 'tokenizers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
