"""Fixtures: seeds, tiny models of every supported architecture, and the real data if it is there.

Imports torch and transformers inside the fixtures only, so that the tests of the compiled core run
where neither is installed.
"""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


def _has_gpu():
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


# Triton's interpreter stands in for a GPU; Triton settles on it when it is imported.
if not _has_gpu():
    os.environ["TRITON_INTERPRET"] = "1"

WORDS = "the a cat dog boat sat ran saw on under mat hill red old and . , play ing ##ed ##s ##er"


@pytest.fixture(autouse=True)
def _seeded():
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(1337)


@pytest.fixture(autouse=True)
def _on_a_gpu(request):
    """Skip what is marked `cuda` where there is no GPU, or fail it under BERTFT_REQUIRE_CUDA=1."""
    if request.node.get_closest_marker("cuda") is not None and not _has_gpu():
        is_required = os.environ.get("BERTFT_REQUIRE_CUDA") == "1"
        (pytest.fail if is_required else pytest.skip)("needs a GPU, and torch finds none")


@pytest.fixture(scope="session")
def shared():
    """The folder with real corpora and checkpoints."""
    named = os.environ.get("BERTFT_SHARED")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared"
    if not (folder / "models" / "minilm").is_dir():
        pytest.skip(f"needs real models and corpora: none in {folder}; set BERTFT_SHARED")
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """An uncased WordPiece tokenizer over a few words and all lower-case letters."""
    from transformers import BertTokenizerFast

    letters = [mark + letter for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *letters]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(entries)))
    return BertTokenizerFast(str(path), model_max_length=64)


def tiny_config(kind, **options):
    """The configuration of a tiny model; `options` override its fields."""
    from transformers import AlbertConfig, BertConfig, DistilBertConfig, GPT2Config

    common = {"vocab_size": 90, "pad_token_id": 0}
    bert = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
    }
    configs = {
        "bert": lambda: BertConfig(**{**common, **bert, **options}),
        "albert": lambda: AlbertConfig(**{**common, **bert, "embedding_size": 12, **options}),
        "albert-groups": lambda: AlbertConfig(
            **{**common, **bert, "embedding_size": 12, "num_hidden_layers": 4}
            | {"num_hidden_groups": 2, **options}
        ),
        "distilbert": lambda: DistilBertConfig(
            **{**common, "dim": 24, "n_layers": 3, "n_heads": 2, "hidden_dim": 40}
            | {"max_position_embeddings": 64, **options}
        ),
        "gpt2": lambda: GPT2Config(
            **{"vocab_size": 90, "n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 64}
            | {"bos_token_id": 0, "eos_token_id": 0, **options}
        ),
    }
    return configs[kind]()


KINDS = ("bert", "albert", "albert-groups", "distilbert", "gpt2")


@pytest.fixture
def make_model():
    """Build a tiny random encoder, or a model with the head that an Auto class gives it."""
    import torch

    def make(kind="bert", *, seed=0, head="AutoModel", dtype=None, **options):
        import transformers

        torch.manual_seed(seed)
        config = tiny_config(kind, **options)
        model = getattr(transformers, head).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                # Initializers leave vectors at 0 or 1, which hides mix-ups.
                parameter.add_(0.02 * torch.randn_like(parameter))
        return model.to(dtype) if dtype else model

    return make


@pytest.fixture
def checkpoint(tmp_path, make_model, tokenizer):
    """Save a tiny model with the tokenizer to a folder and return its path."""

    def save(name, *, change=None, **options):
        model = make_model(**options)
        if change is not None:
            change(model)
        folder = tmp_path / name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


TEXTS = (
    "the cat sat on the mat .",
    "a dog ran and a cat saw the boat",
    "old boats played under red hills , and the dog sat .",
    "a player ran",
    "the old dog saw a red mat on the hill , ran under the boat and played .",
)


@pytest.fixture
def texts():
    """Some texts for the tiny tokenizer, with words of one and of several pieces."""
    return [f"{first} {second}" for first in TEXTS for second in TEXTS]
