"""Frozen, truncated and randomized models: what stays equal to the bit, and what does not."""

import random
import re

import numpy as np
import pytest
import torch

import bertft
from bertft.blocks import find_blocks
from bertft.checkpoints import load_encoder
from bertft.models import encoder_of, freeze, randomize, truncate
from bertft.traces import inference
from tests.conftest import KINDS

CLASSIFIER = "AutoModelForSequenceClassification"
DEPTHS = {kind: 4 if kind == "albert-groups" else 3 for kind in KINDS}
# Shared blocks can't be frozen in part; groups of their own can.
FREEZABLE = {"albert": (0, 3), "albert-groups": (0, 2, 4)}
FROZEN = [(kind, k) for kind in KINDS for k in FREEZABLE.get(kind, range(4))]
REFUSED = [("albert", 1), ("albert", 2), ("albert-groups", 1), ("albert-groups", 3)]
# Two blocks of two groups would be one of each, where the whole model begins with one group twice.
CUT = [
    (kind, k)
    for kind in KINDS
    for k in range(1, DEPTHS[kind] + 1)
    if (kind, k) != ("albert-groups", 2)
]
IDS = torch.tensor([[5, 9, 3, 17, 4, 8], [6, 7, 11, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


@pytest.fixture
def classifier(make_model):
    def make(kind, **options):
        return make_model(kind, head=CLASSIFIER, pad_token_id=0, **options)

    return make


def layers_of(model):
    encoder = encoder_of(model)
    with inference(encoder):
        found = encoder(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    return found.hidden_states


def logits_of(model):
    with inference(model):
        return model(input_ids=IDS, attention_mask=MASK).logits


def train(model, steps=3):
    """Some steps with dropout and weight decay, with every parameter in the optimizer."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        model(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def equal_layers(model, other):
    return [torch.equal(a, b) for a, b in zip(layers_of(model), layers_of(other), strict=True)]


@pytest.mark.parametrize(("kind", "k"), FROZEN)
def test_training_leaves_the_frozen_layers_as_they_were(classifier, kind, k):
    model, before = classifier(kind), classifier(kind)
    freeze(model, k)
    train(model)
    # With nothing frozen, the embeddings train as well.
    equal = k + 1 if k else 0
    assert equal_layers(model, before) == [True] * equal + [False] * (DEPTHS[kind] + 1 - equal)
    assert not torch.equal(logits_of(model), logits_of(before))


TRAINED = {
    ("bert", 2): ("bert.encoder.layer.2.", "bert.pooler.", "classifier."),
    ("bert", 3): ("bert.pooler.", "classifier."),
    ("albert", 3): ("albert.pooler.", "classifier."),
    ("albert-groups", 2): (
        "albert.encoder.albert_layer_groups.1.",
        "albert.pooler.",
        "classifier.",
    ),
    ("distilbert", 1): (
        "distilbert.transformer.layer.1.",
        "distilbert.transformer.layer.2.",
        "pre_classifier.",
        "classifier.",
    ),
    ("gpt2", 1): ("transformer.h.1.", "transformer.h.2.", "transformer.ln_f.", "score."),
    # The last layer is what the final norm returns.
    ("gpt2", 3): ("score.",),
}


@pytest.mark.parametrize(("kind", "k"), TRAINED)
def test_only_what_follows_the_frozen_blocks_trains(classifier, kind, k):
    model, before = classifier(kind), dict(classifier(kind).named_parameters())
    freeze(model, k)
    train(model)
    for name, parameter in model.named_parameters():
        trains = name.startswith(TRAINED[kind, k])
        assert parameter.requires_grad == trains, name
        assert torch.equal(parameter, before[name]) != trains, name


@pytest.mark.parametrize("kind", KINDS)
def test_freezing_no_block_freezes_nothing(classifier, kind):
    model = classifier(kind)
    freeze(model, 0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_bare_encoder_freezes_up_to_its_pooler(make_model):
    for kind, left in {"bert": {"pooler.dense.weight", "pooler.dense.bias"}, "gpt2": set()}.items():
        model = make_model(kind)
        freeze(model, 3)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == left


@pytest.mark.parametrize(("kind", "k"), REFUSED)
def test_blocks_with_shared_weights_are_not_frozen_in_part(classifier, kind, k):
    model = classifier(kind)
    told = (
        rf"^\[freeze\] blocks must have weights of their own, got k = {k} for AlbertModel, whose "
        rf"upper blocks use the same ones; freeze 0 or {DEPTHS[kind]} blocks\.$"
    )
    with pytest.raises(ValueError, match=told):
        freeze(model, k)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("kind", "k"), CUT)
def test_a_truncated_model_has_the_lower_layers_of_the_whole_one(classifier, kind, k):
    model, whole = classifier(kind), layers_of(classifier(kind))
    truncate(model, k)
    found = layers_of(model)
    assert len(found) == k + 1
    assert find_blocks(encoder_of(model)).depth == k == model.config.num_hidden_layers
    expected = [*whole[: k + 1]]
    if kind == "gpt2" and k < DEPTHS[kind]:
        with torch.inference_mode():
            expected[k] = model.transformer.ln_f(whole[k])
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


@pytest.mark.parametrize(("kind", "k"), [(kind, k) for kind, k in CUT if k < DEPTHS[kind]])
def test_truncated_models_save_and_load_as_others(checkpoint, classifier, kind, k):
    from transformers import AutoModel, AutoModelForSequenceClassification

    folder = checkpoint(
        "cut", kind=kind, head=CLASSIFIER, pad_token_id=0, change=lambda model: truncate(model, k)
    )
    model = classifier(kind)
    truncate(model, k)
    for loaded in (AutoModel.from_pretrained(folder), load_encoder(str(folder), torch.float32)):
        assert find_blocks(loaded).depth == k
        assert all(equal_layers(loaded, model))
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_truncated_models_are_compared(checkpoint, texts):
    def cut(model):
        truncate(model, 2)

    def cut_and_trained(model):
        cut(model)
        freeze(model, 1)
        train(model)

    folders = [
        str(checkpoint(name, head=CLASSIFIER, change=change))
        for name, change in {"base": cut, "tuned": cut_and_trained}.items()
    ]
    table = bertft.compare(*folders, texts, measures=["rsa"]).table.set_index("pretrained_layer")
    assert list(table.index) == [0, 1, 2]
    assert table.value[1] == pytest.approx(1, abs=1e-12)
    assert table.value[2] < 0.999


def test_the_head_stands_on_the_last_layer_that_is_kept(classifier):
    whole, model = layers_of(classifier("bert")), classifier("bert")
    truncate(model, 2)
    pooler, head = model.bert.pooler.dense, model.classifier
    with torch.inference_mode():
        pooled = torch.tanh(whole[2][:, 0] @ pooler.weight.T + pooler.bias)
        expected = pooled @ head.weight.T + head.bias
    torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "k"), [("bert", 1), ("gpt2", 2), ("albert", 2)])
def test_the_whole_of_a_truncated_model_freezes(classifier, kind, k):
    model, before = classifier(kind), classifier(kind)
    truncate(before, k)
    truncate(model, k)
    freeze(model, k)
    train(model)
    assert all(equal_layers(model, before))


def test_a_truncated_model_trains_and_keeps_its_configuration(classifier):
    model = classifier("bert")
    truncate(model, 1)
    weights = {name for name, _ in model.named_parameters()}
    assert not [name for name in weights if re.search(r"layer\.[12]\.", name)]
    train(model, steps=1)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_kinds_of_attention_are_cut_with_their_blocks(make_model):
    model = make_model()
    model.config.layer_types = ["full_attention"] * 3
    truncate(model, 2)
    assert model.config.layer_types == ["full_attention"] * 2


def test_groups_are_not_cut_where_other_blocks_would_run(make_model):
    told = (
        r"^\[truncate\] k must be a place where the blocks can be cut, got 2 for a AlbertModel "
        r"that then runs other blocks or not at all; pass another k\.$"
    )
    with pytest.raises(ValueError, match=told):
        truncate(make_model("albert-groups"), 2)


@pytest.mark.parametrize(
    ("function", "least", "k"),
    [(freeze, 0, -1), (freeze, 0, 4), (truncate, 1, 0), (truncate, 1, 4), (truncate, 1, -1)],
)
def test_numbers_of_blocks_beyond_the_model_are_refused(classifier, function, least, k):
    told = (
        rf"^\[{function.__name__}\] k must be in {least}\.\.3 for a model of 3 blocks, got {k}; "
        rf"pass one of these\.$"
    )
    model, before = classifier("bert"), classifier("bert")
    with pytest.raises(ValueError, match=told):
        function(model, k)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(equal_layers(model, before))


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("head", ["AutoModel", CLASSIFIER])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_redrawn(make_model, kind, head):
    drawn = {}
    for name, seed in {"a": 7, "again": 7, "b": 8}.items():
        model = make_model(kind, head=head)
        before = weights_of(model)
        torch.rand(len(name))
        randomize(model, seed)
        drawn[name] = weights_of(model)
        assert not [key for key in before if torch.equal(before[key], drawn[name][key])]
    assert all(torch.equal(drawn["a"][key], drawn["again"][key]) for key in before)
    for key, a in drawn["a"].items():
        # Norms and biases start as constants.
        assert torch.equal(a, drawn["b"][key]) == (a.ndim == 1), key


EMBEDDINGS = {
    "bert": "embeddings.",
    "albert": ("embeddings.", "encoder.embedding_hidden_mapping_in."),
    "albert-groups": ("embeddings.", "encoder.embedding_hidden_mapping_in."),
    "distilbert": "embeddings.",
    "gpt2": ("wte.", "wpe."),
}


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_stay_if_asked(make_model, kind):
    model, before = make_model(kind), make_model(kind)
    randomize(model, 7, embeddings=False)
    assert equal_layers(model, before) == [True] + [False] * DEPTHS[kind]
    old = weights_of(before)
    for name, parameter in weights_of(model).items():
        assert torch.equal(parameter, old[name]) == name.startswith(EMBEDDINGS[kind]), name
    randomize(model, 7)
    assert not any(equal_layers(model, before))


def test_tied_weights_stay_tied(make_model):
    model = make_model(head="AutoModelForMaskedLM")
    words = model.get_input_embeddings().weight.detach().clone()
    randomize(model, 7, embeddings=False)
    assert torch.equal(model.get_output_embeddings().weight, words)
    randomize(model, 7)
    assert not torch.equal(model.get_input_embeddings().weight, words)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def spread(model, ending):
    """Standard deviation about zero over all matrices with a name that ends so."""
    found = [p.flatten() for name, p in model.named_parameters() if name.endswith(ending)]
    return torch.cat(found).square().mean().sqrt().item()


def test_bert_is_drawn_by_its_own_initializer(make_model):
    model = make_model()
    randomize(model, 7)
    for ending in ("query.weight", "dense.weight", "word_embeddings.weight"):
        assert spread(model, ending) == pytest.approx(0.02, rel=0.05)
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            assert (parameter == 1).all()
        elif name.endswith("bias"):
            assert (parameter == 0).all()


def test_gpt2_is_drawn_by_its_own_initializer(make_model):
    model = make_model("gpt2")
    randomize(model, 7)
    assert spread(model, "c_attn.weight") == pytest.approx(0.02, rel=0.05)
    # Two residual branches a block.
    assert spread(model, "c_proj.weight") == pytest.approx(0.02 / 6**0.5, rel=0.05)


def test_the_initializer_follows_the_configuration(make_model):
    model = make_model(initializer_range=0.1)
    randomize(model, 7)
    assert spread(model, "dense.weight") == pytest.approx(0.1, rel=0.05)


def test_random_states_stay_as_they_were(make_model):
    model = make_model()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    randomize(model, 7)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(np.array_equal(*both) for both in zip(before[2], after[2], strict=True))


def test_randomizing_keeps_dtype_mode_and_what_trains(make_model):
    model, reference = make_model(dtype=torch.bfloat16).train(), make_model()
    freeze(model, 2)
    trains = [parameter.requires_grad for parameter in model.parameters()]
    randomize(model, 7)
    randomize(reference, 7)
    assert model.training
    assert [parameter.requires_grad for parameter in model.parameters()] == trains
    for own, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(own, other.bfloat16())


def test_truncated_models_are_randomized(make_model):
    model = make_model()
    truncate(model, 2)
    before = make_model()
    truncate(before, 2)
    randomize(model, 7, embeddings=False)
    assert equal_layers(model, before) == [True, False, False]
