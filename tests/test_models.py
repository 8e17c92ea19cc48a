"""Layers found by structure, loading, and models left as they came."""

import json
import shutil

import pytest
import torch
from torch import nn

from bertft.blocks import find_blocks
from bertft.capture import RowBlock, capture
from bertft.checkpoints import Checkpoint, fingerprint, load_encoder, load_tokenizer, locate
from bertft.models import encoder_of
from bertft.rows import Batch
from bertft.traces import inference
from tests.conftest import KINDS

IDS = torch.tensor([[5, 9, 3, 17, 4, 8], [6, 7, 11, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


def captured(model, ids=IDS, mask=MASK):
    encoder = encoder_of(model)
    states = []
    blocks = find_blocks(encoder)
    with inference(encoder):
        capture(encoder, blocks, ids, mask, lambda _, h: states.append(h.clone()))
    return states


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, "albert-inner"])
def test_captured_layers_are_hidden_states_to_the_bit(make_model, kind, dtype, attention):
    options = {"inner_group_num": 2} if kind == "albert-inner" else {}
    model = make_model(kind.removesuffix("-inner"), dtype=dtype, **options)
    model.set_attn_implementation(attention)
    states = captured(model)
    with inference(model):
        expected = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    assert len(states) == len(expected.hidden_states)
    for own, other in zip(states, expected.hidden_states, strict=True):
        assert torch.equal(own, other)
    assert find_blocks(model).widths == tuple(h.shape[-1] for h in expected.hidden_states)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("bert", "AutoModelForSequenceClassification"),
        ("bert", "AutoModelForMaskedLM"),
        ("distilbert", "AutoModelForQuestionAnswering"),
        ("albert", "AutoModelForTokenClassification"),
        ("gpt2", "AutoModelForCausalLM"),
    ],
)
def test_the_encoder_is_found_under_any_head(make_model, kind, head):
    model = make_model(kind, head=head)
    states = captured(model)
    with inference(model):
        expected = model.base_model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    assert all(torch.equal(*both) for both in zip(states, expected.hidden_states, strict=True))


def state_of(model):
    hooks = [
        (dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks))
        for m in model.modules()
    ]
    return [module.training for module in model.modules()], hooks, vars(model).keys()


def test_models_leave_as_they_came(make_model):
    model = make_model(head="AutoModelForSequenceClassification").train()
    model.base_model.encoder.layer[1].eval()
    model.register_forward_hook(lambda *_: None)
    before = state_of(model)
    captured(model)
    assert state_of(model) == before

    def fail(layer, hidden):
        raise KeyboardInterrupt

    encoder = encoder_of(model)
    blocks = find_blocks(encoder)
    with pytest.raises(KeyboardInterrupt), inference(encoder):
        capture(encoder, blocks, IDS, MASK, fail)
    assert state_of(model) == before


def test_a_layer_that_does_not_fire_is_named(make_model):
    model = make_model()
    blocks = find_blocks(model)
    model.encoder.layer = nn.ModuleList(list(model.encoder.layer)[:2])
    with (
        inference(model),
        pytest.raises(RuntimeError, match=r"block 3 of BertModel must fire once"),
    ):
        capture(model, blocks, IDS, MASK, lambda *_: None)


def test_a_model_without_blocks_is_refused(make_model):
    model = make_model()
    model.encoder.layer = nn.ModuleList()
    with pytest.raises(
        ValueError, match=r"\[find_blocks\] layers must be what a list of blocks receives"
    ):
        find_blocks(model)
    for model in (5, None, iter([])):
        with pytest.raises(TypeError, match="must be a name, a path or a PreTrainedModel, got"):
            encoder_of(model)
    with pytest.raises(TypeError, match="must be a name, a path or a PreTrainedModel, got Linear"):
        encoder_of(nn.Linear(1, 1))


def test_poolers_run_late(make_model):
    assert find_blocks(make_model("bert")).late == {"pooler", "pooler.dense", "pooler.activation"}
    assert find_blocks(make_model("gpt2")).late == frozenset()
    assert find_blocks(make_model("distilbert")).late == frozenset()


@pytest.mark.parametrize("head", ["AutoModel", "AutoModelForTokenClassification"])
def test_loading_any_head_gives_its_encoder(checkpoint, head):
    folder = checkpoint("model", head=head)
    encoder = load_encoder(str(folder), torch.float64)
    assert encoder.dtype == torch.float64
    assert find_blocks(encoder).depth == 3


def test_half_files_are_read_in_float32(checkpoint, make_model):
    folder = checkpoint("model", dtype=torch.float16)
    encoder = load_encoder(str(folder), torch.float32)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    half = make_model(dtype=torch.float16).state_dict()
    assert all(torch.equal(half[k].float(), v) for k, v in encoder.state_dict().items())


def edit_weights(folder, edit):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


LOST = "encoder.layer.1.output.dense.weight"


def test_a_missing_weight_is_named(checkpoint):
    folder = checkpoint("model")
    edit_weights(folder, lambda weights: weights.pop(LOST))
    with pytest.raises(ValueError, match=f"must hold every encoder weight.* without '{LOST}'"):
        load_encoder(str(folder), torch.float32)


def test_a_missing_embedding_or_final_norm_is_named(checkpoint):
    folder = checkpoint("model", kind="gpt2")
    edit_weights(folder, lambda weights: weights.pop("ln_f.weight"))
    with pytest.raises(ValueError, match=r"without 'ln_f.weight'"):
        load_encoder(str(folder), torch.float32)


def test_a_weight_of_another_shape_is_named(checkpoint):
    folder = checkpoint("model")
    edit_weights(folder, lambda weights: weights.update({LOST: torch.zeros(24, 41)}))
    with pytest.raises(ValueError, match=rf"{LOST}' must have shape \(24, 40\), got \(24, 41\)"):
        load_encoder(str(folder), torch.float32)


@pytest.mark.parametrize("kind", ["bert", "albert"])
@pytest.mark.parametrize("change", ["missing", "misshapen"])
def test_a_pooler_that_the_checkpoint_lacks_is_left_out(kind, change, checkpoint):
    folder = checkpoint("model", kind=kind)
    whole = load_encoder(str(folder), torch.float32)

    def edit(weights):
        for key in [key for key in weights if key.startswith("pooler")]:
            weights.pop(key)
            if change == "misshapen":
                weights[key] = torch.zeros(7)

    edit_weights(folder, edit)
    encoder = load_encoder(str(folder), torch.float32)
    kept = whole.state_dict()
    assert encoder.state_dict().keys() == {key for key in kept if not key.startswith("pooler")}
    assert all(torch.equal(value, kept[key]) for key, value in encoder.state_dict().items())
    ids = torch.tensor([[2, 10, 3]])
    with torch.inference_mode():
        outputs = encoder.eval()(input_ids=ids), whole.eval()(input_ids=ids)
    assert torch.equal(*(output.last_hidden_state for output in outputs))


def test_transformers_keeps_quiet(checkpoint, capfd):
    folder = checkpoint("model", head="AutoModelForTokenClassification")
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_encoder(str(folder), torch.float32)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_pickles_are_refused(checkpoint):
    folder = checkpoint("model")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"must be safetensors, got only pickles.* save_pretrained"
    ):
        load_encoder(str(folder), torch.float32)


def test_damaged_and_unknown_models_are_refused(checkpoint):
    folder = checkpoint("model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ValueError, match="weights must be whole safetensors files, got"):
        load_encoder(str(folder), torch.float32)
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ValueError, match="model must be one that transformers knows, got"):
        load_encoder(str(folder), torch.float32)


def test_missing_models_are_told(tmp_path, checkpoint):
    for name in (str(tmp_path / "none"), "./none", "~/no-such-model"):
        with pytest.raises(FileNotFoundError, match="must be an existing folder or a hub name"):
            load_encoder(name, torch.float32)
    with pytest.raises(FileNotFoundError, match="folder or hub name with safetensors weights, got"):
        load_encoder("no-such/model@main", torch.float32)
    for load in (load_tokenizer, lambda name: load_encoder(name, torch.float32)):
        with pytest.raises(FileNotFoundError, match=r"must .*, got 'my model' .*[Rr]epo"):
            load("my model")
    with pytest.raises(FileNotFoundError, match=r"must be a folder with config.json"):
        load_encoder(str(tmp_path), torch.float32)
    folder = checkpoint("model")
    with pytest.raises(
        FileNotFoundError, match=r"got the file '.*config.json'; pass the folder tha"
    ):
        load_encoder(str(folder / "config.json"), torch.float32)
    with pytest.raises(TypeError, match="tokenizer must be one of transformers, got 'name'; load"):
        Checkpoint.open(str(folder), tokenizer="name")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"got no \*.safetensors"):
        load_encoder(str(folder), torch.float32)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="must come with a tokenizer"):
        load_tokenizer(str(folder))


def test_names_with_a_revision(tmp_path):
    assert locate("user/model@v1.2") == ("user/model", "v1.2")
    assert locate("model") == ("model", None)
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert locate(str(folder)) == (str(folder), None)


def test_a_revision_that_does_not_exist_is_named(checkpoint, tmp_path, monkeypatch):
    """A model in the hub's cache, where two revisions are, one of them called main."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commits = ["0" * 40, "1" * 40]
    kept = tmp_path / "hub" / "models--some--model"
    for seed, commit in enumerate(commits):
        checkpoint("model", seed=seed).rename(tmp_path / commit)
        (kept / "snapshots").mkdir(parents=True, exist_ok=True)
        (tmp_path / commit).rename(kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commits[1])
    names = ["some/model", *(f"some/model@{revision}" for revision in ("main", *commits))]
    found = [fingerprint(Checkpoint.open(name).encoder) for name in names]
    assert found[0] == found[1] == found[3] != found[2]
    told = r"got 'some/model@v9' .* check the name and its revision 'v9', or download it first"
    with pytest.raises(FileNotFoundError, match=told):
        Checkpoint.open("some/model@v9")


def test_code_of_a_models_own_is_not_run(checkpoint):
    folder = checkpoint("model")
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "model_type": "mine"}
    config["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "modeling.Mine")
    path.write_text(json.dumps(config))
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match=r"must run on code of transformers, got .* of its own"):
        load_encoder(str(folder), torch.float32)


def test_code_of_a_tokenizers_own_is_not_run(checkpoint):
    folder = checkpoint("model")
    path = folder / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "tokenizer_class": "Mine"}
    config["auto_map"] = {"AutoTokenizer": ["tokenizing.Mine", "tokenizing.Mine"]}
    path.write_text(json.dumps(config))
    (folder / "tokenizing.py").write_text("raise SystemExit('ran')")
    (folder / "config.json").write_text('{"model_type": "mine"}')
    with pytest.raises(ValueError, match=r"tokenizer must run on code of transformers, got .*with"):
        load_tokenizer(str(folder))


def test_fingerprints_follow_the_weights_and_the_architecture(checkpoint):
    # The pooler is not among the weights of a token classifier.
    folder = checkpoint("model", head="AutoModelForTokenClassification")
    loaded = fingerprint(load_encoder(str(folder), torch.float32))
    model = load_encoder(str(folder), torch.float32)
    assert fingerprint(model) == loaded
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    assert fingerprint(model) != loaded
    config = json.loads((folder / "config.json").read_text())
    # The same matrices, read as three heads instead of two; and names, which compute nothing.
    for change, same in (({"num_attention_heads": 3}, False), ({"id2label": {"0": "x"}}, True)):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        assert (fingerprint(load_encoder(str(folder), torch.float32)) == loaded) is same


def test_models_in_memory_keep_their_dtype(make_model, tokenizer):
    model = make_model(dtype=torch.bfloat16)
    assert Checkpoint.open(model, None, tokenizer).encoder is model
    with pytest.raises(ValueError, match="dtype must be that of a model in memory"):
        Checkpoint.open(model, torch.float32, tokenizer)


def test_a_model_from_nowhere_needs_a_tokenizer(make_model):
    with pytest.raises(ValueError, match=r"got BertModel, which was loaded from nowhere; pass"):
        Checkpoint.open(make_model())


def test_the_shortest_limit_counts(checkpoint):
    folder = checkpoint("model")
    assert Checkpoint.open(str(folder)).max_length == 64
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 20}))
    assert Checkpoint.open(str(folder)).max_length == 20
    other = checkpoint("gpt2", kind="gpt2")
    shutil.copy(folder / "tokenizer_config.json", other)
    assert Checkpoint.open(str(other)).max_length == 20


def test_blocks_gather_batches():
    handed = []

    def hand_on(rows, numbers):
        handed.append((rows["a"].clone(), numbers.tolist()))

    block = RowBlock({"a": 3}, 5, torch.float32, hand_on)
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    for starts in ([0, 5], [1], [2, 3, 4]):
        first = torch.tensor(starts)
        block.open(Batch(hidden, hidden, first, first + 1, 10 * first))
        assert block.receive("a", hidden)
        block.close()
    block.flush()
    block.flush()
    flat = hidden.reshape(8, 3)
    assert [rows.tolist() for rows, _ in handed] == [flat[[0, 5, 1]].tolist(), flat[2:5].tolist()]
    assert [numbers for _, numbers in handed] == [[0, 50, 10], [20, 30, 40]]
