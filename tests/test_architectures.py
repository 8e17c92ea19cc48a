"""Layers, sublayers and ablations of many architectures, from tiny random models."""

import copy
import functools

import pytest
import torch
import transformers

from bertft.blocks import Layer, find_blocks
from bertft.capture import capture
from bertft.models import encoder_of
from bertft.traces import inference
from tests.conftest import CONFIGS, tiny_config

IDS = torch.tensor([[5, 9, 3, 17, 4, 8], [6, 7, 11, 12, 2, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
PADDED = {"right": (IDS, MASK), "left": (IDS.flip(1), MASK.flip(1))}
# What transformers runs with eager attention only.
EAGER_ONLY = {"deberta-v2", "mpnet"}
ATTENTION = [(kind, "eager") for kind in CONFIGS]
ATTENTION += [(kind, "sdpa") for kind in CONFIGS if kind not in EAGER_ONLY]
WITHOUT = {
    "SequenceClassification": set(),
    "TokenClassification": {"opt"},
    "QuestionAnswering": {"gemma"},
    "CausalLM": {
        "albert",
        "albert-groups",
        "distilbert",
        "deberta-v2",
        "modernbert",
        "mpnet",
        "t5",
    },
}
HEADS = [
    (head, kind) for head, lacking in WITHOUT.items() for kind in CONFIGS if kind not in lacking
]
FINAL_NORM = {"gpt2", "modernbert", "llama", "mistral", "qwen2", "opt", "gemma", "t5"}


@functools.cache
def built(kind, head=None, attention="eager"):
    """A tiny random model; T5 is its encoder alone where it has no head."""
    torch.manual_seed(0)
    make = getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel").from_config
    if kind == "t5" and head is None:
        make = transformers.T5EncoderModel._from_config
    model = make(tiny_config(kind, pad_token_id=0), attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Initializers leave vectors at 0 or 1, which hides mix-ups.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@functools.cache
def narrow(kind, attention):
    return copy.deepcopy(built(kind, attention=attention)).bfloat16()


def fresh(kind, head=None):
    return copy.deepcopy(built(kind, head))


def captured(model, ids=IDS, mask=MASK, **options):
    encoder, states = encoder_of(model), {}
    with inference(encoder):
        blocks = find_blocks(encoder)
        capture(encoder, blocks, ids, mask, lambda at, h: states.update({at: h.clone()}), **options)
    return states


def hidden_states(model, ids=IDS, mask=MASK):
    with inference(model):
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return output.hidden_states


def assert_equal(states, expected):
    assert list(states) == [Layer(number) for number in range(len(expected))]
    for own, other in zip(states.values(), expected, strict=True):
        assert own.dtype == other.dtype
        assert torch.equal(own, other)


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "attention"), ATTENTION)
def test_captured_layers_are_hidden_states_to_the_bit(kind, attention, dtype, padding):
    model = (built if dtype == "float32" else narrow)(kind, attention=attention)
    assert model.config._attn_implementation == attention
    assert_equal(captured(model, *PADDED[padding]), hidden_states(model, *PADDED[padding]))


@pytest.mark.parametrize("kind", EAGER_ONLY)
def test_what_has_eager_attention_only(kind):
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        built(kind, attention="sdpa")


@pytest.mark.parametrize(("head", "kind"), HEADS)
def test_the_encoder_is_found_under_any_head(head, kind):
    model = built(kind, head)
    states = captured(model)
    # T5's own hidden_states are those of its decoder.
    whole = kind != "t5" or head == "TokenClassification"
    assert_equal(states, hidden_states(model if whole else model.get_encoder()))
