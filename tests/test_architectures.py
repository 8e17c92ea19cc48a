"""Layers, sublayers and ablations of many architectures, from tiny random models."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

import bertft
from bertft.blocks import Layer, find_blocks
from bertft.capture import capture
from bertft.checkpoints import load_encoder
from bertft.finetuning.prefix import Prefix
from bertft.models import encoder_of, freeze, positions, randomize, truncate
from bertft.traces import inference
from tests.conftest import CONFIGS, KINDS, tiny_config
from tests.task_files import write_all

IDS = torch.tensor([[5, 9, 3, 17, 4, 8], [6, 7, 11, 12, 2, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
PADDED = {"right": (IDS, MASK), "left": (IDS.flip(1), MASK.flip(1))}
# What transformers runs with eager attention only.
EAGER_ONLY = {"deberta", "deberta-v2", "mpnet"}
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
        "deberta",
        "deberta-v2",
        "modernbert",
        "mpnet",
        "t5",
    },
}
HEADS = [
    (head, kind, attention)
    for head, lacking in WITHOUT.items()
    for kind, attention in ATTENTION
    if kind not in lacking
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
def narrow(kind, head=None, attention="eager"):
    return copy.deepcopy(built(kind, head, attention)).bfloat16()


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


@pytest.mark.parametrize("padding", PADDED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("head", "kind", "attention"), HEADS)
def test_the_encoder_is_found_under_any_head(head, kind, attention, dtype, padding):
    model = (built if dtype == "float32" else narrow)(kind, head, attention)
    states = captured(model, *PADDED[padding])
    # T5's own hidden_states are those of its decoder.
    whole = kind != "t5" or head == "TokenClassification"
    of = model if whole else model.get_encoder()
    assert_equal(states, hidden_states(of, *PADDED[padding]))


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_last_layer_comes_after_the_final_norm(kind):
    blocks = find_blocks(built(kind) if kind != "t5" else built(kind).encoder)
    assert blocks.has_final_norm == (kind in FINAL_NORM)


BERT = ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense")
LLAMA = ("layers.{}.self_attn.o_proj", "layers.{}.mlp.down_proj")
INSIDE_ALBERT = "encoder.albert_layer_groups.{}.albert_layers.0."
SUBLAYERS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), BERT),
    **dict.fromkeys(("deberta", "deberta-v2"), BERT),
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma"), LLAMA),
    "albert": (f"{INSIDE_ALBERT}attention.dense", f"{INSIDE_ALBERT}ffn_output"),
    "albert-groups": (f"{INSIDE_ALBERT}attention.dense", f"{INSIDE_ALBERT}ffn_output"),
    "distilbert": ("transformer.layer.{}.attention.out_lin", "transformer.layer.{}.ffn.lin2"),
    "gpt2": ("h.{}.attn.c_proj", "h.{}.mlp.c_proj"),
    "modernbert": ("layers.{}.attn.Wo", "layers.{}.mlp.Wo"),
    "mpnet": ("encoder.layer.{}.attention.attn.o", "encoder.layer.{}.output.dense"),
    "opt": ("decoder.layers.{}.self_attn.out_proj", "decoder.layers.{}.fc2"),
    "t5": (
        "encoder.block.{}.layer.0.SelfAttention.o",
        "encoder.block.{}.layer.1.DenseReluDense.wo",
    ),
}
BLOCK_OF = {"albert": (0, 0, 0), "albert-groups": (0, 0, 1, 1)}


@pytest.mark.parametrize("kind", CONFIGS)
def test_sublayers_are_the_projections_that_architectures_name(kind):
    model = built(kind)
    blocks = find_blocks(model)
    for site, name in zip(("attention", "mlp"), SUBLAYERS[kind], strict=True):
        names = [name.format(i) for i in BLOCK_OF.get(kind, range(3))]
        assert list(blocks.sublayers[site]) == [model.get_submodule(name) for name in names]


@pytest.mark.parametrize("kind", sorted(FINAL_NORM))
def test_blocks_add_what_their_sublayers_return(kind):
    model = built(kind)
    blocks = find_blocks(model)
    wanted = [layer for site in ("output", "attention", "mlp") for layer in blocks.layers(site)]
    states = captured(model, wanted=wanted)
    assert set(states) == set(wanted)
    for number in range(1, blocks.depth):
        parts = [Layer(number - 1), Layer(number, "attention"), Layer(number, "mlp")]
        assert {blocks.width(layer) for layer in parts} == {24}
        total = sum(states[layer] for layer in parts)
        torch.testing.assert_close(total, states[Layer(number)], rtol=1e-5, atol=1e-5)


def test_bert_normalizes_sums_of_what_its_sublayers_return():
    model = built("bert")
    layers = [Layer(1), Layer(2, "attention"), Layer(2, "mlp"), Layer(2)]
    before, attention, mlp, after = captured(model, wanted=layers).values()
    block = model.encoder.layer[1]
    with torch.no_grad():
        between = block.attention.output.LayerNorm(attention + before)
        torch.testing.assert_close(block.output.LayerNorm(mlp + between), after)


def test_blocks_without_sublayers_of_their_own_have_none():
    model = fresh("bert")
    for block in model.encoder.layer:
        block.output.dense = nn.Sequential(nn.Linear(40, 12), nn.Linear(12, 24))
        block.attention.output.dense = nn.Identity()
    # What is left before the feed-forward network does not mix positions.
    assert find_blocks(model).sublayers == {}


@pytest.mark.parametrize(
    ("wanted", "run"),
    [
        ([Layer(0)], []),
        ([Layer(1), Layer(0)], [1]),
        ([Layer(2, "attention")], [1]),  # it ends inside of block 2
        ([Layer(0), Layer(3)], [1, 2, 3]),
    ],
)
def test_a_run_ends_after_the_last_layer_that_is_wanted(wanted, run):
    model, ran = built("bert"), []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i + 1))
        for i, block in enumerate(model.encoder.layer)
    ]
    try:
        blocks = find_blocks(model)
        ran.clear()
        states = {}
        with inference(model):
            capture(model, blocks, IDS, MASK, lambda at, h: states.update({at: h}), wanted)
    finally:
        for handle in handles:
            handle.remove()
    assert set(states) == set(wanted)
    assert ran == run


def train(model, steps=2):
    """Some steps of every parameter that trains, with dropout and weight decay."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        encoder_of(model)(
            input_ids=IDS, attention_mask=MASK
        ).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def layers_of(model):
    return hidden_states(encoder_of(model))


def equal(states, others):
    return [torch.equal(*both) for both in zip(states, others, strict=True)]


NEW = [kind for kind in CONFIGS if kind not in KINDS]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", NEW)
def test_frozen_layers_stay_and_others_train(kind, k):
    model = fresh(kind)
    freeze(model, k)
    if k < 3:
        train(model)
    else:
        left = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert left <= {"pooler"}
    expected = [True] * (k + 1) + [False] * (3 - k)
    assert equal(layers_of(model), layers_of(built(kind))) == expected


FINAL = {
    "modernbert": ("final_norm",),
    "opt": ("decoder.final_layer_norm", "decoder.project_out"),
    "t5": ("encoder.final_layer_norm",),
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma"), ("norm",)),
}


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("kind", NEW)
def test_truncated_models_have_the_lower_layers_and_load_again(kind, k, tmp_path):
    model, whole = fresh(kind), layers_of(built(kind))
    truncate(model, k)
    expected = list(whole[: k + 1])
    for name in FINAL.get(kind, ()):
        with torch.no_grad():
            expected[k] = model.get_submodule(name)(expected[k])
    assert equal(layers_of(model), expected) == [True] * (k + 1)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert equal(layers_of(loaded), expected) == [True] * (k + 1)


@pytest.mark.parametrize("kind", NEW)
def test_randomized_models_keep_embeddings_if_asked(kind):
    model, before = fresh(kind), dict(built(kind).named_parameters())
    randomize(model, 7, embeddings=False)
    assert equal(layers_of(model), layers_of(built(kind))) == [True, False, False, False]
    kept = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert kept
    randomize(model, 7)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_the_convolution_of_deberta_is_no_embedding():
    model = fresh("deberta-v2")
    weight = model.encoder.conv.conv.weight.clone()
    randomize(model, 7, embeddings=False)
    assert not torch.equal(model.encoder.conv.conv.weight, weight)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("kind", NEW)
def test_a_frozen_prefix_is_computed_once(kind, k):
    model = fresh(kind)
    prefix = Prefix(model, k, "float32")
    assert prefix.is_exact() == (kind != "t5")
    if kind == "t5":
        return
    recipe = SimpleNamespace(batch_size=1, dtype="float32")
    rows = [{"input_ids": ids[mask == 1].tolist()} for ids, mask in zip(IDS, MASK, strict=True)]
    prefix.compute(rows, SimpleNamespace(pad_id=2, recipe=recipe), None, lambda _: None)
    with torch.no_grad(), prefix.standing_in(prefix.batch([0, 1])):
        found = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    expected = layers_of(built(kind))[-1]
    torch.testing.assert_close(found[MASK == 1], expected[MASK == 1], rtol=1e-4, atol=1e-5)
    # All is as it was.
    assert equal(layers_of(model), layers_of(built(kind))) == [True] * 4


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "xlm-roberta", "llama"])
def test_positions_are_as_many_as_a_model_takes(kind):
    model = built(kind)
    most = positions(model)
    with inference(model):
        model(input_ids=torch.full((1, most), 5))
        if kind != "llama":  # rotary positions have no table
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, most + 1), 5))


def test_blocks_that_are_not_whole_modules_are_read_but_not_cut():
    """XLM lists attentions, norms and feed-forward networks each by itself."""
    sizes = {"vocab_size": 90, "emb_dim": 24, "n_layers": 3, "n_heads": 2, "n_langs": 1}
    config = transformers.XLMConfig(**sizes, pad_index=0, max_position_embeddings=64)
    model = transformers.XLMModel(config).eval()
    expected = hidden_states(model)
    assert_equal(captured(model), expected)
    with pytest.raises(ValueError, match=r"\[truncate\] k must be a place where .* 2 for a XLM"):
        truncate(model, 2)
    assert all(equal(hidden_states(model), expected))
    # What it adds to what a list's member returns does not come from that member.
    assert not Prefix(model, 1, "float32").is_exact()
    freeze(model, 1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"ffns.1.lin1.weight", "attentions.1.q_lin.weight", "ffns.2.lin1.weight"} <= trained
    assert not {name for name in trained if ".0." in name or "embeddings" in name}


@pytest.mark.parametrize(("kind", "told"), [("ViT", "AttributeError"), ("Canine", "RuntimeError")])
def test_models_that_do_not_run_on_a_few_tokens_are_refused(kind, told):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, intermediate_size=40)
    model = transformers.AutoModel.from_config(config)
    with pytest.raises(ValueError, match=rf"must run on 3 token ids .*, got {told} from a {kind}"):
        find_blocks(model)


def test_texts_are_read_by_t5s_encoder_in_an_encoder_decoder():
    torch.manual_seed(0)
    whole = transformers.T5ForConditionalGeneration(tiny_config("t5")).eval()
    assert_equal(captured(whole), hidden_states(whole.get_encoder()))


class Scaled(transformers.BertPreTrainedModel):
    """Blocks that receive another tensor than the one that is among the hidden states."""

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.stack = nn.Module()
        self.stack.layers = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **_):
        hidden = self.words(input_ids)
        states = [hidden]
        for layer in self.stack.layers:
            hidden = layer(2 * hidden).relu()
            states.append(hidden)
        return transformers.modeling_outputs.BaseModelOutput(
            hidden, tuple(states) if output_hidden_states else None
        )


@pytest.mark.parametrize("path", ["encoder.layer.0", "encoder.layer.0.attention"])
def test_a_path_to_anything_but_the_blocks_is_refused(path):
    model = built("bert")
    assert find_blocks(model, "encoder.layer").calls == find_blocks(model).calls
    with pytest.raises(
        ValueError, match=rf"path of the blocks that receive .* got '{path}', whose"
    ):
        find_blocks(model, path)


def test_a_model_that_changes_for_short_texts_is_refused():
    config = tiny_config("bert").to_dict()
    sizes = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")
    given = {name: config[name] for name in sizes} | {"num_hidden_layers": 2, "block_size": 4}
    short = transformers.BigBirdModel(transformers.BigBirdConfig(**given)).eval()
    with pytest.raises(ValueError, match=r"run on few tokens as it is, got a BigBirdModel that"):
        find_blocks(short)
    given["attention_type"] = "original_full"
    assert find_blocks(transformers.BigBirdModel(transformers.BigBirdConfig(**given)).eval())


@pytest.mark.parametrize(("kind", "path"), [("CLIPText", "encoder.layers"), ("XLNet", None)])
def test_only_paths_that_can_be_read_are_suggested(kind, path):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 99}
    if kind == "XLNet":
        sizes = {"d_model": 16, "n_head": 2, "n_layer": 3, "vocab_size": 99}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    wanted = rf"layers='{path}' " if path else r"hidden_states; pass an encoder with a list of"
    with pytest.raises(ValueError, match=wanted):
        find_blocks(model)
    if path:
        assert find_blocks(model, path).depth == 3


def test_what_cannot_be_read_is_refused_with_the_path_to_pass():
    model = Scaled(tiny_config("bert")).eval()
    told = (
        r"^\[find_blocks\] layers must be what a list of blocks receives, got a Scaled where no "
        r"such list receives its hidden_states; pass the path of the list, "
        r"layers='stack\.layers' \(bertft compare --layers stack\.layers\); probe, finetune and "
        r"ablate take only models that are read without\.$"
    )
    with pytest.raises(ValueError, match=told):
        find_blocks(model)
    for path in ("stack.layers", "bert.stack.layers"):
        blocks = find_blocks(model, path)
        assert blocks.calls == tuple(model.stack.layers)
    with pytest.raises(ValueError, match=r"must be the path of a module list in a Scaled, got 'x'"):
        find_blocks(model, "x")
    states = {}
    with inference(model):
        capture(model, blocks, IDS, MASK, lambda at, h: states.update({at: h.clone()}))
    expected = hidden_states(model)
    assert torch.equal(states[Layer(1)], 2 * expected[1])
    assert torch.equal(states[Layer(3)], expected[3])
    before = copy.deepcopy(model)
    freeze(model, 1, layers="stack.layers")
    assert [p.requires_grad for p in model.parameters()] == [False] * 3 + [True] * 4
    randomize(model, 3, embeddings=False, layers="stack.layers")
    assert torch.equal(model.words.weight, before.words.weight)
    truncate(model, 2, layers="stack.layers")
    assert len(model.stack.layers) == 2


def test_blocks_that_get_something_else_are_refused():
    model = Scaled(tiny_config("bert"))
    model.stack.layers[0].register_forward_pre_hook(lambda module, args: (args[0][0],))
    with pytest.raises(ValueError, match=r"must receive hidden states \(batch, length, d\), got"):
        find_blocks(model, "stack.layers")


@pytest.mark.parametrize("compiled", ["wrapped", "in place", "encoder", "blocks"])
def test_compiled_models_are_read_eagerly(compiled):
    model = fresh("bert", "TokenClassification")
    wanted = [
        Layer(number, site) for site in ("output", "attention", "mlp") for number in (1, 2, 3)
    ]
    expected, inside = hidden_states(model), captured(model, wanted=wanted)
    if compiled == "wrapped":
        model = torch.compile(model, backend="eager")
    elif compiled == "in place":
        model.compile(backend="eager")
    elif compiled == "encoder":
        model.bert.compile(backend="eager")
    else:
        blocks = model.bert.encoder.layer
        for i, block in enumerate(list(blocks)):
            blocks[i] = torch.compile(block, backend="eager")
    with torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK)
    assert_equal(captured(model), expected)
    found = captured(model, wanted=wanted)
    assert found.keys() == inside.keys()
    assert all(torch.equal(found[layer], inside[layer]) for layer in wanted)


def test_dispatched_models_work_or_say_what_to_do():
    from accelerate import cpu_offload, dispatch_model

    model, expected = fresh("bert"), layers_of(built("bert"))
    places = dict.fromkeys(("embeddings", "encoder.layer.0", "pooler"), "cpu")
    places |= dict.fromkeys(("encoder.layer.1", "encoder.layer.2"), "cpu")
    dispatched = dispatch_model(model, places, main_device="cpu", force_hooks=True)
    assert_equal(captured(dispatched), expected)
    with (
        pytest.raises(ValueError, match=r"\[inference\] device must be left out for a model that"),
        inference(dispatched, device=torch.device("cpu")),
    ):
        pass
    cpu_offload(offloaded := fresh("bert"), execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"\[find_blocks\] weights must be in memory, got 55 that"):
        find_blocks(offloaded)


def test_models_are_left_as_they_came():
    model = transformers.AutoModel.from_config(tiny_config("llama"))
    before = [(vars(m).keys(), list(m._forward_hooks)) for m in model.modules()]
    find_blocks(model)
    assert before == [(vars(m).keys(), list(m._forward_hooks)) for m in model.modules()]
    assert "_output_capturing_hooks_installed" not in vars(model)


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("roberta", "squad"),
        ("electra", "depparse"),
        ("deberta-v2", "mnli"),
        ("modernbert", "depparse"),
        ("mpnet", "mnli"),
        ("llama", "mnli"),
        ("opt", "squad"),
        ("qwen2", "depparse"),
    ],
)
def test_models_are_finetuned_with_blocks_frozen_and_cut(checkpoint, tmp_path, kind, task):
    base = checkpoint("base", kind=kind)
    (tmp_path / "data").mkdir()
    files = write_all(tmp_path / "data", n=8)[task]
    options = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "max_length": 48}
    options |= {"doc_stride": 8} if task == "squad" else {}
    bertft.finetune(task, base, *files, tmp_path / "out", freeze=1, keep=2, **options)
    whole, tuned = (load_encoder(str(path), torch.float32) for path in (base, tmp_path / "out"))
    states = layers_of(tuned)
    assert len(states) == 3
    assert equal(states[:2], layers_of(whole)[:2]) == [True, True]
    assert not torch.equal(states[2], layers_of(whole)[2])
