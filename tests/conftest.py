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


TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
DISTILBERT = {"dim": 24, "n_layers": 3, "n_heads": 2, "hidden_dim": 40} | {
    "max_position_embeddings": 64
}
GPT2 = {"n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 64}
T5 = {"d_model": 24, "d_kv": 12, "d_ff": 40, "num_layers": 3, "num_heads": 2}
GROUPED = {"num_key_value_heads": 1}
# Each with what it does in its own way: a projection of embeddings, a convolution after block 1,
# fewer heads for keys, a projection of the last layer, local attention.
CONFIGS = {
    "bert": ("Bert", TINY),
    "albert": ("Albert", {**TINY, "embedding_size": 12}),
    "albert-groups": (
        "Albert",
        {**TINY, "embedding_size": 12, "num_hidden_layers": 4, "num_hidden_groups": 2},
    ),
    "distilbert": ("DistilBert", DISTILBERT),
    "gpt2": ("GPT2", {**GPT2, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}),
    "roberta": ("Roberta", TINY),
    "electra": ("Electra", {**TINY, "embedding_size": 12}),
    "deberta": ("Deberta", {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2": (
        "DebertaV2",
        {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "conv_kernel_size": 3}
        | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    ),
    "modernbert": (
        "ModernBert",
        {**TINY, "local_attention": 4, "global_attn_every_n_layers": 2}
        | dict.fromkeys(("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 1),
    ),
    "mpnet": ("MPNet", TINY),
    "xlm-roberta": ("XLMRoberta", TINY),
    "llama": ("Llama", {**TINY, **GROUPED}),
    "mistral": ("Mistral", {**TINY, **GROUPED, "sliding_window": 4}),
    "qwen2": ("Qwen2", {**TINY, **GROUPED}),
    "opt": (
        "OPT",
        {**TINY, "ffn_dim": 40, "word_embed_proj_dim": 12},
    ),
    "gemma": ("Gemma", {**TINY, **GROUPED, "head_dim": 12}),
    "t5": ("T5", T5),
}
KINDS = ("bert", "albert", "albert-groups", "distilbert", "gpt2")


def tiny_config(kind, **options):
    """The configuration of a tiny model; `options` override its fields."""
    import transformers

    name, own = CONFIGS[kind]
    fields = {"vocab_size": 90, "pad_token_id": 0, **own, **options}
    return getattr(transformers, f"{name}Config")(**fields)


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
