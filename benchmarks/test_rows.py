"""What becomes of texts beside the forward passes: words paired, rows drawn, batches padded.

The tokenizers' own work is left out on both sides: the passes need it whatever becomes a row.
"""

import pytest
from conftest import aim, shared

from bertft import tokenizing
from bertft.checkpoints import Checkpoint
from bertft.corpora import Corpus, corpora_of
from bertft.moments import BLOCK_ROWS
from bertft.pairing import common_rows, encode_sides, shares_tokens
from bertft.planning import FINETUNED, PRETRAINED
from bertft.rows import groups_by_length, lengths_of, pad
from bertft.traces import inference

WAYS = ["two forward passes", "words, rows and batches"]
SENTENCES = 300


def treebank():
    [corpus] = corpora_of(shared() / "data" / "ud_english_ewt" / "en_ewt-ud-dev.conllu")
    return corpus


def by_bytes(texts):
    """A byte-level tokenizer of the size of MiniLM's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=rules, model_max_length=512)


class Sides:
    """MiniLM and MiniLM tuned to parse, with the same tokens or with two kinds of them."""

    def __init__(self, corpus, kinds):
        folders = [str(shared() / "models" / name) for name in ("minilm", "minilm-dep")]
        other = by_bytes([text.text for text in corpus.texts]) if kinds == 2 else None
        self.sides = {
            PRETRAINED: Checkpoint.open(folders[0]),
            FINETUNED: Checkpoint.open(folders[1], tokenizer=other),
        }
        self.corpus = corpus

    def batches(self, size):
        """Padded batches of every side, as the pass makes them; models of one kind share theirs."""
        encodings = encode_sides(
            self.corpus.texts, self.sides, "words", 256, "mean", specials=False
        )
        _, views = common_rows(encodings, None, 0)
        ways = {id(rows): rows.texts for rows in views.values()}
        lengths = lengths_of(list(ways.values()))
        counts = [len(text.starts) for text in next(iter(ways.values()))]
        for group in groups_by_length(lengths, counts, size, BLOCK_ROWS):
            padded = {key: pad([texts[n] for n in group], 0) for key, texts in ways.items()}
            yield {role: padded[id(rows)] for role, rows in views.items()}

    def forward_passes(self, batches):
        for batch in batches:
            for role, side in self.sides.items():
                side.encoder(input_ids=batch[role].ids, attention_mask=batch[role].mask)


def tokenized_before(sides):
    """Let every tokenizer return what it has returned before."""
    made = {
        id(side.tokenizer): list(tokenizing.tokenized(sides.corpus.texts, side.tokenizer, 256))
        for side in sides.sides.values()
    }

    def tokenized(texts, tokenizer, max_length):
        return iter(made[id(tokenizer)])

    return tokenized


@pytest.mark.parametrize("who", WAYS)
@pytest.mark.parametrize("size", [1, 8, 32, 128])
@pytest.mark.parametrize("kinds", [1, 2])
def test_beside_the_passes(benchmark, race, monkeypatch, kinds, size, who):
    named = "two tokenizers" if kinds == 2 else "one tokenizer"
    benchmark.group = f"rows of {SENTENCES} sentences of EWT, {named}, batches of {size}"

    def make():
        whole = treebank()
        some = Corpus.of("some", whole.texts[:: len(whole.texts) // SENTENCES][:SENTENCES])
        sides = Sides(some, kinds)
        monkeypatch.setattr(tokenizing, "tokenized", tokenized_before(sides))
        batches = list(sides.batches(size))
        encodings = encode_sides(some.texts, sides.sides, "words", 256, "mean", specials=False)
        assert shares_tokens(encodings) == (kinds == 1)

        def passes():
            with inference(*(side.encoder for side in sides.sides.values())):
                sides.forward_passes(batches)

        return dict(zip(WAYS, (passes, lambda: list(sides.batches(size))), strict=True))

    if who == WAYS[1]:
        aim(
            benchmark,
            most=0.02,
            why="Each tokenizer's texts are read in Python, some 15 us a text, and padded, beside "
            "the passes of a small model.",
        )
    race(("rows", kinds, size), make, who, rounds=3)


@pytest.mark.parametrize("kinds", [1, 2])
def test_padding(benchmark, race, kinds):
    named = "two tokenizers" if kinds == 2 else "one tokenizer"
    benchmark.group = f"padding of EWT dev, {named}, batches of 32"

    def make():
        sides = Sides(treebank(), kinds)
        found = [batch for both in sides.batches(32) for batch in both.values()]
        encodings = encode_sides(
            sides.corpus.texts, sides.sides, "words", 256, "mean", specials=False
        )
        for role, own in encodings.items():
            texts = [
                ids[mask.bool()].tolist()
                for both in sides.batches(32)
                for ids, mask in zip(both[role].ids, both[role].mask, strict=True)
            ]
            assert sorted(texts) == sorted(text.ids.tolist() for text in own)
        tokens = sum(int(batch.mask.sum()) for batch in found)
        positions = sum(batch.mask.numel() for batch in found)
        benchmark.extra_info["padding"] = 1 - tokens / positions
        return {"bertft": lambda: list(sides.batches(32))}

    aim(benchmark, most=0.10, of="padding")
    race(("padding", kinds), make, "bertft", rounds=1)
