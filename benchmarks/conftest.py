"""Models and batches of the benchmarks, and quantiles on every row."""

import numpy as np
import pytest
import torch


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for row in output_json["benchmarks"]:
        times = row["stats"].get("data") or [row["stats"]["median"]]
        row["stats"]["q20"], row["stats"]["q80"] = np.quantile(times, [0.2, 0.8]).tolist()
        row["threads"] = torch.get_num_threads()


@pytest.fixture(scope="session")
def bert_base():
    """Two encoders of BERT-base's shape with random weights."""
    from transformers import BertConfig, BertModel

    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(BertModel(BertConfig(), add_pooling_layer=False).eval())
    return models


@pytest.fixture(scope="session")
def letters():
    """A tokenizer that knows single letters: a word of k letters has k pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = [mark + chr(97 + i) for mark in ("", "##") for i in range(26)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet]
    vocabulary = {name: i for i, name in enumerate(names)}
    rules = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


def sentences(words, seed=0):
    """Sentences of about 25 words, of which every fifth has two pieces."""
    random = np.random.default_rng(seed)
    made = []
    while words > 0:
        length = min(words, int(random.integers(15, 36)))
        letters = random.integers(0, 26, (length, 2))
        long = random.random(length) < 0.2
        made.append(
            " ".join(
                chr(97 + a) + (chr(97 + b) if two else "")
                for (a, b), two in zip(letters, long, strict=True)
            )
        )
        words -= length
    return made
