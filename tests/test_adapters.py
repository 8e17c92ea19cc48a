"""Adapters as the fine-tuned model: a folder, or a model in memory."""

import json
import sys

import peft
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file

import bertft
from bertft.blocks import find_blocks
from bertft.checkpoints import load_encoder, load_tokenizer
from bertft.models import encoder_of, randomize
from bertft.traces import inference

# peft asks models for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

IDS = torch.tensor([[5, 9, 3, 17, 4, 8], [6, 7, 11, 12, 2, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
LORA = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "target_modules": ["query", "dense"]}
HEADS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
    None: "AutoModelForMaskedLM",
}


def adapted(base, head="AutoModelForSequenceClassification", task="SEQ_CLS", **options):
    """A base checkpoint under a head with random adapter weights."""
    import transformers

    labels = {"num_labels": 3} if "Classification" in head else {}
    model = getattr(transformers, head).from_pretrained(base, **labels)
    torch.manual_seed(7)
    return get_peft_model(model, LoraConfig(task_type=task, **{**LORA, **options})).eval()


def layers_of(model):
    encoder = encoder_of(model)
    with inference(encoder):
        found = encoder(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    return found.hidden_states


@pytest.mark.parametrize(("task", "head"), HEADS.items())
def test_an_adapter_is_merged_whatever_head_it_was_trained_with(checkpoint, tmp_path, task, head):
    base = checkpoint("base")
    model = adapted(str(base), head, task)
    model.save_pretrained(tmp_path / "lora")
    encoder = load_encoder(str(tmp_path / "lora"), torch.float32)
    for own, other in zip(layers_of(encoder), layers_of(model), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    # By hand: W + alpha / r B A.
    layer = encoder_of(model).encoder.layer[1].attention.self.query
    a, b = (getattr(layer, name)["default"].weight for name in ("lora_A", "lora_B"))
    expected = layer.base_layer.weight + 5 / 3 * b @ a
    torch.testing.assert_close(encoder.encoder.layer[1].attention.self.query.weight, expected)
    assert not [name for name, _ in encoder.named_parameters() if "lora" in name]


def test_patterns_of_ranks_are_kept(checkpoint, tmp_path):
    names = {f"bert.encoder.layer.{i}.attention.self.query": i + 1 for i in range(2)}
    model = adapted(str(checkpoint("base")), rank_pattern=names, alpha_pattern=names)
    model.save_pretrained(tmp_path / "lora")
    encoder = load_encoder(str(tmp_path / "lora"), torch.float32)
    for own, other in zip(layers_of(encoder), layers_of(model), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "pattern",
    [
        "^bert.encoder.layer.1.attention.self.query",
        r"bert\.encoder\.layer\.1\..*query",
        "bert.*query",
        "(bert|roberta).encoder.layer.0.attention.self.query",
        "layer.1.attention.self.query",
        "query",
    ],
)
def test_patterns_are_regular_expressions_over_the_whole_model(checkpoint, tmp_path, pattern):
    options = {"rank_pattern": {pattern: 2}, "alpha_pattern": {pattern: 64}}
    model = adapted(str(checkpoint("base")), **options)
    model.save_pretrained(tmp_path / "lora")
    encoder = load_encoder(str(tmp_path / "lora"), torch.float32)
    for own, other in zip(layers_of(encoder), layers_of(model), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_targets_may_be_whole_names(checkpoint, tmp_path):
    names = [f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 2)]
    model = adapted(str(checkpoint("base")), target_modules=names)
    model.save_pretrained(tmp_path / "lora")
    encoder = load_encoder(str(tmp_path / "lora"), torch.float32)
    for own, other in zip(layers_of(encoder), layers_of(model), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("text", ["", "[1]", None])
def test_adapters_in_part_are_told_in_a_line(checkpoint, tmp_path, file, text):
    adapted(str(checkpoint("base"))).save_pretrained(folder := tmp_path / "lora")
    if text is None and file == "adapter_config.json":
        rewrite(folder, peft_type="NOPE")
    elif text is None:
        (folder / file).unlink()
        torch.save({}, folder / "adapter_model.bin")
    else:
        (folder / file).write_text(text)
    with pytest.raises(ValueError, match=r"^\[load_encoder\] adapter.* must .*; save [^\n]*$"):
        load_encoder(str(folder), torch.float32)


def test_adapters_that_repeat_layers_are_refused(checkpoint, tmp_path):
    adapted(str(checkpoint("base"))).save_pretrained(folder := tmp_path / "lora")
    rewrite(folder, layer_replication=[[0, 2], [1, 3]])
    with pytest.raises(ValueError, match=r"layers that its base has, got .* layer_replication"):
        load_encoder(str(folder), torch.float32)


@pytest.mark.parametrize(
    ("kind", "head", "options"),
    [
        ("t5", "AutoModelForSeq2SeqLM", {"target_modules": ["q", "wo"]}),
        ("llama", "AutoModelForCausalLM", {"target_modules": ["q_proj", "down_proj"]}),
        ("gpt2", "AutoModelForCausalLM", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ],
)
def test_adapters_of_other_architectures(checkpoint, tmp_path, kind, head, options):
    base = checkpoint("base", kind=kind, head=head)
    model = adapted(str(base), head, None, **options)
    model.save_pretrained(tmp_path / "lora")
    encoder = load_encoder(str(tmp_path / "lora"), torch.float32)
    for own, other in zip(layers_of(encoder), layers_of(model), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": r".*(query|pooler\.dense)"},
        {"target_modules": ["query"], "modules_to_save": ["pooler"]},
    ],
)
def test_what_was_trained_of_a_pooler_that_the_base_lacks_is_left_out(
    checkpoint, tmp_path, options
):
    base = checkpoint("base", head="AutoModelForMaskedLM")
    assert load_encoder(str(base), torch.float32).pooler is None
    model = adapted(str(base), **options)
    model.save_pretrained(tmp_path / "lora")
    encoder = load_encoder(str(tmp_path / "lora"), torch.float32)
    for own, other in zip(layers_of(encoder), layers_of(model), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_nothing_that_the_base_has_is_refused(checkpoint, tmp_path):
    base = checkpoint("base", head="AutoModelForMaskedLM")
    adapted(str(base), target_modules=["pooler.dense"]).save_pretrained(tmp_path / "lora")
    message = r"must change weights that its base has, got only others .* such as '.*pooler"
    with pytest.raises(ValueError, match=message):
        load_encoder(str(tmp_path / "lora"), torch.float32)
    save_file({}, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"must change weights that its base has, got only others"):
        load_encoder(str(tmp_path / "lora"), torch.float32)


def test_targets_that_are_not_in_the_encoder_are_refused(checkpoint, tmp_path):
    head = "AutoModelForSequenceClassification"
    model = adapted(str(checkpoint("base")), head, target_modules=r"bert\.encoder.*\.query")
    model.save_pretrained(tmp_path / "lora")
    with pytest.raises(ValueError, match=r"adapter must fit its base, got .*merge_and_unload"):
        load_encoder(str(tmp_path / "lora"), torch.float32)


def test_adapters_are_compared_by_folder_and_in_memory(checkpoint, tmp_path, texts):
    base = str(checkpoint("base"))
    model = adapted(base)
    model.save_pretrained(tmp_path / "lora")
    assert load_tokenizer(str(tmp_path / "lora")).get_vocab() == load_tokenizer(base).get_vocab()
    options = {"measures": ["rsa", "cka"], "sites": "output,mlp"}
    folder = bertft.compare(base, tmp_path / "lora", texts, **options).table
    memory = bertft.compare(base, model, texts, **options).table
    assert set(memory.finetuned) == {f"{base} + default"}
    assert (folder.value - memory.value).abs().max() < 1e-4
    assert folder.value.min() < 0.99
    # Layers below the first adapter are the base's.
    assert folder.value[folder.pretrained_layer == 0].min() == pytest.approx(1, abs=1e-6)


def test_what_an_adapter_wraps_is_read_with_it(checkpoint):
    model = adapted(str(checkpoint("base")))
    blocks = find_blocks(encoder_of(model))
    for site, name in (("attention", "attention.output.dense"), ("mlp", "output.dense")):
        for i, module in enumerate(blocks.sublayers[site]):
            assert module is encoder_of(model).get_submodule(f"encoder.layer.{i}.{name}")
            assert isinstance(module, peft.tuners.lora.Linear)
    with pytest.raises(ValueError, match=r"\[randomize\] model must have the weights that its"):
        randomize(encoder_of(model), 0)


def test_a_base_that_its_adapter_has_changed_is_refused(make_model, tokenizer, texts):
    base = make_model(head="AutoModelForSequenceClassification")
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **LORA))
    with pytest.raises(ValueError, match=r"models must be two, got .* with one encoder"):
        bertft.compare(base, model, texts, tokenizer=tokenizer)


def rewrite(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_adapters_without_a_base_are_refused(checkpoint, tmp_path):
    adapted(str(checkpoint("base"))).save_pretrained(folder := tmp_path / "lora")
    for absent in (str(tmp_path / "gone"), "no-such/base"):
        rewrite(folder, base_model_name_or_path=absent)
        told = (
            rf"adapter must have its base at hand, got '{absent}', which is what '{folder}' names"
        )
        with pytest.raises(FileNotFoundError, match=told):
            load_encoder(str(folder), torch.float32)
    rewrite(folder, base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"adapter must name its base, got none in the"):
        load_encoder(str(folder), torch.float32)


def test_an_adapter_beside_a_whole_model_is_refused(checkpoint, tmp_path):
    model = adapted(str(checkpoint("base")))
    model.save_pretrained(folder := tmp_path / "lora")
    alone = load_encoder(str(folder), torch.float32)
    # A configuration alone is no model.
    model.get_base_model().config.save_pretrained(folder)
    for own, other in zip(
        layers_of(load_encoder(str(folder), torch.float32)), layers_of(alone), strict=True
    ):
        assert torch.equal(own, other)
    model.merge_and_unload().save_pretrained(folder)
    with pytest.raises(ValueError, match=r"whole or an adapter, got adapter_config.json and model"):
        load_encoder(str(folder), torch.float32)


def test_adapters_that_do_not_fit_are_refused(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    adapted(str(checkpoint("base"))).save_pretrained(folder := tmp_path / "lora")
    weights = load_file(folder / "adapter_model.safetensors")
    lost = "base_model.model.bert.encoder.layer.2.output.dense.lora_B.weight"
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter must hold the weights .* 1 missing or unknown"):
        load_encoder(str(folder), torch.float32)
    rewrite(folder, r=2)
    with pytest.raises(ValueError, match=r"adapter must fit its base, got .* \(merge_and_unload\)"):
        load_encoder(str(folder), torch.float32)


def test_virtual_tokens_are_refused(checkpoint, tmp_path, make_model):
    base = str(checkpoint("base"))
    model = make_model(head="AutoModelForSequenceClassification")
    model.name_or_path = base
    prompted = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(
        ValueError, match=r"adapter must change weights, as LoRA does, got PROMPT_T"
    ):
        encoder_of(prompted)
    prompted.save_pretrained(tmp_path / "prompt")
    rewrite(tmp_path / "prompt", base_model_name_or_path=base)
    with pytest.raises(
        ValueError, match=r"adapter must change weights, as LoRA does, got PROMPT_T"
    ):
        load_encoder(str(tmp_path / "prompt"), torch.float32)


def test_a_missing_peft_is_told(checkpoint, tmp_path, monkeypatch):
    adapted(str(checkpoint("base"))).save_pretrained(tmp_path / "lora")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        RuntimeError, match=r"peft must be installed to read an adapter, got .* pip"
    ):
        load_encoder(str(tmp_path / "lora"), torch.float32)
