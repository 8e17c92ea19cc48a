"""Fine-tuning runs: what trains, what the frozen prefix changes, resuming, and what is refused."""

import errno
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

import bertft
from bertft.blocks import find_blocks
from bertft.checkpoints import fingerprint, load_encoder
from bertft.finetuning import Finetuned, finetune, resuming
from bertft.finetuning.prefix import Prefix, place_for, states_nbytes
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import Tokens, task_of
from tests.task_files import write_all

TASKS = ("depparse", "mnli", "squad", "tagging")
QUICK = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "max_length": 48}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "data").mkdir()
    return write_all(tmp_path / "data")


@pytest.fixture
def base(checkpoint):
    return checkpoint("base")


def quick(task):
    return {**QUICK, **({"doc_stride": 8} if task == "squad" else {})}


def run(task, model, files, out, **options):
    return finetune(task, model, *files[task], out, **{**quick(task), **options})


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("task", TASKS)
def test_a_run_leaves_a_model_its_scores_and_their_origin(task, base, files, tmp_path):
    out = tmp_path / "out"
    tuned = run(task, base, files, out, seed=3)
    assert list(tuned.table["measure"]) == list(task_of(task).measures)
    assert tuned.table["value"].between(0, 100).all()
    again = Finetuned.load(out)
    assert again.table.equals(tuned.table)
    assert again.provenance == json.loads(json.dumps(tuned.provenance))
    assert again.provenance["recipe"]["seed"] == 3
    assert again.provenance["recipe"]["lr"] == 1e-3
    assert again.provenance["prefix_cache"] == "nothing is frozen"
    assert again.provenance["times"]["epochs"] == 2
    [predictions] = out.glob("predictions-*.jsonl")
    assert len(predictions.read_text().splitlines()) == 12
    assert not (out / "checkpoints").exists()
    assert not list(out.glob(".*"))
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1


@pytest.mark.parametrize("task", TASKS)
def test_compare_reads_the_encoder_that_was_trained(task, base, files, tmp_path, texts):
    out = tmp_path / "out"
    trained = {}

    def keep(model, *args, **options):
        trained.update({k: v.clone() for k, v in model.base_model.state_dict().items()})
        return save(model, *args, **options)

    from transformers import PreTrainedModel

    save = PreTrainedModel.save_pretrained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", keep)
        run(task, base, files, out, epochs=1)
    read = load_encoder(str(out), torch.float32).state_dict()
    assert read.keys() == trained.keys()
    assert all(torch.equal(read[key], value) for key, value in trained.items())
    table = bertft.compare(base, out, texts, measures=["rsa"]).table
    assert table["value"].iloc[-1] < 1


def test_training_teaches(base, files, tmp_path):
    before = run("depparse", base, files, tmp_path / "a", epochs=1, lr=1e-9, head_lr=1e-9)
    after = run("depparse", base, files, tmp_path / "b", epochs=12, lr=3e-3, head_lr=3e-3)
    assert after.table["value"].iloc[0] > 95 > before.table["value"].iloc[0] + 30


@pytest.mark.parametrize(
    ("kind", "where", "task"),
    [
        ("bert", "memory", "mnli"),
        ("bert", "disk", "squad"),
        ("distilbert", "disk", "mnli"),
        ("gpt2", "memory", "mnli"),
        ("gpt2", "disk", "squad"),
        ("albert", "memory", "squad"),
    ],
)
def test_the_prefix_computed_once_trains_the_same_model(
    kind, where, task, checkpoint, files, tmp_path
):
    still = {
        "bert": STILL,
        "albert": STILL,
        "distilbert": {"dropout": 0.0, "attention_dropout": 0.0},
        "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    }[kind]
    if kind in ("bert", "albert"):
        still = {**still, "classifier_dropout_prob": 0.0} if kind == "albert" else still
    base = checkpoint("still", kind=kind, **still)
    k = 3 if kind == "albert" else 2
    options = {"freeze": k, "cache_memory_gib": 1 if where == "memory" else 0}
    once = run(task, base, files, tmp_path / "once", **options)
    plain = run(task, base, files, tmp_path / "plain", prefix_cache=False, freeze=k)
    assert where in once.provenance["prefix_cache"]
    assert plain.provenance["prefix_cache"] == "off"
    assert once.provenance["times"]["loss"] == pytest.approx(
        plain.provenance["times"]["loss"], rel=1e-5
    )
    a, b = weights(tmp_path / "once"), weights(tmp_path / "plain")
    assert a.keys() == b.keys()
    for name in a:
        if name == "qa_outputs.bias":
            continue  # it moves all logits alike, so its gradient is rounding and no more
        # Adam's steps are of one size however small a gradient, so rounding can grow.
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-4)
    assert not (tmp_path / "once" / "prefix").exists()


def test_rounding_the_prefix_to_bfloat16_hardly_moves_the_loss(checkpoint, files, tmp_path):
    base = checkpoint("still", **STILL)
    losses = {
        dtype: [
            run(
                "mnli",
                base,
                files,
                tmp_path / f"{dtype}-{cached}",
                dtype=dtype,
                freeze=2,
                prefix_cache=cached,
            ).provenance["times"]["loss"]
            for cached in (True, False)
        ]
        for dtype in ("bfloat16", "float32")
    }
    cached, plain = losses["bfloat16"]
    assert cached == pytest.approx(plain, rel=1e-4)
    assert cached != plain
    assert losses["float32"][0] == pytest.approx(losses["float32"][1], rel=1e-6)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_frozen_layers_stay_and_the_others_move(k, cached, base, files, tmp_path, texts):
    run("mnli", base, files, tmp_path / "out", freeze=k, prefix_cache=cached)
    rsa = bertft.compare(base, tmp_path / "out", texts, measures=["rsa", "l2"]).table
    values = rsa.pivot(index="pretrained_layer", columns="measure", values="value")
    assert (values["l2"].iloc[: k + 1] == 0).all()
    assert (values["rsa"].iloc[: k + 1] == 1).all()
    assert (values["l2"].iloc[k + 1 :] > 0).all()


def test_the_prefix_states_are_those_of_the_layer(make_model, tokenizer, tmp_path):
    model = make_model().eval()
    rows = [{"input_ids": ids} for ids in ([2, 10, 3], [2, 11, 12, 13, 14, 3], [2, 3])]
    tokens = Tokens(tokenizer, Recipe(epochs=1, lr=1, batch_size=2, max_length=9))
    prefix = Prefix(model, 2, "float32")
    done = []
    prefix.compute(rows, tokens, tmp_path, done.append)
    assert states_nbytes(rows, find_blocks(model), 2, "float32") == (3 + 6 + 2) * 24 * 4
    assert sum(done) == 3
    found = prefix.batch([2, 1])
    assert found.shape == (2, 6, 24)
    assert not found[0, 2:].any()
    for line, row in zip(found, (rows[2], rows[1]), strict=True):
        ids = torch.tensor([row["input_ids"]])
        wanted = model(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
        torch.testing.assert_close(line[: len(wanted)], wanted, rtol=0, atol=1e-5)


def test_shards_are_cut_and_mapped(make_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("bertft.finetuning.prefix.SHARD_BYTES", 500)
    model = make_model().eval()
    rows = [{"input_ids": [2, *range(10, 10 + n), 3]} for n in range(9)]
    tokens = Tokens(tokenizer, Recipe(epochs=1, lr=1, batch_size=2, max_length=20))
    mapped, held = (Prefix(model, 1, "bfloat16") for _ in range(2))
    mapped.compute(rows, tokens, tmp_path, lambda n: None)
    held.compute(rows, tokens, None, lambda n: None)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert torch.equal(mapped.batch(range(9)), held.batch(range(9)))


def test_budgets_of_the_prefix_cache(tmp_path, monkeypatch):
    gib = 2**30
    assert place_for(gib, tmp_path / "p", 1, 5) is None
    assert place_for(2 * gib, tmp_path / "p", 1, 5) == tmp_path / "p"
    with pytest.raises(ValueError, match=r"must fit 1 GiB of memory or 5 GiB of disk, got 6\.00"):
        place_for(6 * gib, tmp_path / "p", 1, 5)
    usage = shutil.disk_usage(tmp_path)._replace(free=gib)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"room for the prefix cache, got 1\.00 GiB in"):
        place_for(2 * gib, tmp_path / "p", 1, 5)


class InterruptionError(Exception):
    pass


def stop_after(step):
    """A progress callback that ends a run as a signal would."""

    def follow(self, done, total):
        if done == step:
            raise InterruptionError

    return follow


@pytest.mark.parametrize("options", [{}, {"freeze": 2}, {"accumulate": 2}], ids=str)
def test_a_resumed_run_ends_like_one_in_one_go(options, base, files, tmp_path, monkeypatch):
    options = {"epochs": 3, **options}
    whole = run("mnli", base, files, tmp_path / "whole", **options)
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(
            "bertft.progress.Bar.follow", stop_after(5 if "accumulate" not in options else 3)
        )
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out, **options)
    assert not (out / "provenance.json").exists()
    with pytest.raises(FileExistsError, match=r"must not hold the checkpoints of another run"):
        run("mnli", base, files, out, **options)
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", lambda self, done, total: steps.append(done))
        resumed = run("mnli", base, files, out, resume=True, **options)
    assert steps[0] == (4 if "accumulate" not in options else 3)
    assert resumed.table.equals(whole.table)
    a, b = weights(out), weights(tmp_path / "whole")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_cut_short_is_not_resumed(base, files, tmp_path, monkeypatch):
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(5))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out, epochs=3)
    [whole] = (out / "checkpoints").glob("checkpoint-*")
    broken = whole.with_name("checkpoint-6")
    shutil.copytree(whole, broken)
    (broken / "trainer_state.json").write_text('{"epoch": 2')
    run("mnli", base, files, out, epochs=3, resume=True)
    assert (out / "provenance.json").exists()


@pytest.mark.parametrize(
    ("task", "changed", "told"),
    [
        ("squad", {}, 'got task "mnli"'),
        ("mnli", {"lr": 2e-3}, r"got lr 0\.001 in .* where this run has 0\.002"),
        ("mnli", {"freeze": 1}, "got freeze 0"),
        ("mnli", {"limit": 20}, "got limit null"),
    ],
)
def test_checkpoints_of_another_run_are_refused(
    task, changed, told, base, files, tmp_path, monkeypatch
):
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(4))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out)
    with pytest.raises(ValueError, match=rf"checkpoint must be of the same run, {told}"):
        run(task, base, files, out, resume=True, **changed)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"dev_every": 2}, r"got dev_every 1 in .* where this run has 2;"),
        ({"save_model": False}, r"got save_model true in .* where this run has false;"),
    ],
)
def test_finished_runs_with_other_results_are_refused(changed, told, base, files, tmp_path):
    out = tmp_path / "out"
    run("mnli", base, files, out, epochs=1)
    with pytest.raises(ValueError, match=rf"checkpoint must be of the same run, {told}"):
        run("mnli", base, files, out, epochs=1, resume=True, **changed)


def test_other_dev_sets_are_not_told_the_old_scores(base, files, tmp_path, monkeypatch):
    out, (train, dev) = tmp_path / "out", files["mnli"]
    other = dev.with_name("other.jsonl")
    other.write_text("".join(dev.read_text().splitlines(keepends=True)[:7]))
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(4))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out)
    # What decides the training is the same, so the checkpoints are too.
    options = {**QUICK, "resume": True}
    tuned = finetune("mnli", base, train, [dev, other], out, **options)
    assert tuned.provenance["times"]["resumed_from_step"] == 3
    assert finetune("mnli", base, train, [other, dev], out, **options).table.equals(tuned.table)
    for sets in (dev, other):
        with pytest.raises(ValueError, match=r'same run, got dev {"mnli-dev": ".*; pass the same'):
            finetune("mnli", base, train, sets, out, **options)


def test_checkpoints_without_a_description_are_not_lost(base, files, tmp_path, monkeypatch):
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(5))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out)
    (out / "checkpoints" / "run.json").rename(tmp_path / "run.json")
    with pytest.raises(ValueError, match=r"checkpoints must have their run\.json, got none in"):
        run("mnli", base, files, out, resume=True)
    (tmp_path / "run.json").rename(out / "checkpoints" / "run.json")
    tuned = run("mnli", base, files, out, resume=True)
    assert tuned.provenance["times"]["resumed_from_step"] == 3


def test_the_files_of_a_run_go_with_it(base, files, tmp_path):
    out, (train, dev) = tmp_path / "out", files["mnli"]
    other = dev.with_name("other.jsonl")
    shutil.copy(dev, other)
    options = {**QUICK, "epochs": 1}
    finetune("mnli", base, train, [dev, other], out, **options)
    (out / "notes.txt").write_text("mine")
    finetune("mnli", base, train, other, out, overwrite=True, save_model=False, **options)
    assert sorted(path.name for path in out.iterdir()) == [
        "notes.txt",
        "predictions-other.jsonl",
        "provenance.json",
        "results.csv",
        "results.parquet",
    ]


def test_checkpoints_of_another_label_set_are_refused(base, files, tmp_path, monkeypatch):
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(4))
        with pytest.raises(InterruptionError):
            run("depparse", base, files, out)
    train = files["depparse"][0]
    train.write_text(train.read_text().replace("nsubj", "obj"))
    with pytest.raises(ValueError, match=r'got labels \["nsubj"\] in .* has \["obj"\]'):
        run("depparse", base, files, out, resume=True)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing"),
    ],
    ids=["OSError", "torch"],
)
def test_a_full_disk_keeps_the_last_whole_checkpoint(failure, base, files, tmp_path, monkeypatch):
    from transformers import Trainer

    save, calls = Trainer._save_optimizer_and_scheduler, []

    def fill(self, folder):
        calls.append(folder)
        if len(calls) == 2:
            raise failure
        save(self, folder)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", fill)
        with pytest.raises(OSError, match=r"room for checkpoints.* from checkpoint-3"):
            run("mnli", base, files, out)
    assert [path.name for path in (out / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]
    run("mnli", base, files, out, resume=True)


def test_a_full_disk_names_the_checkpoint_that_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "_is_whole", lambda checkpoint: True)
    for step in (9, 12):  # the best one, and the last one
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OSError, match="from checkpoint-12"), resuming.telling_full_disks(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert resuming.open_checkpoints(tmp_path, {}, resume=True) == tmp_path / "checkpoint-12"


def test_the_head_has_its_own_rate(make_model):
    from bertft.finetuning.training import parameter_groups

    model = make_model(head="AutoModelForSequenceClassification")
    recipe = Recipe(epochs=1, lr=1e-5, head_lr=1e-3, batch_size=1, max_length=8)
    groups = parameter_groups(model, recipe)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        wanted = (1e-5 if name.startswith("bert.") else 1e-3, 0.01 if parameter.ndim > 1 else 0.0)
        assert rates[id(parameter)] == wanted, name


def test_rates_rise_over_a_tenth_of_the_steps_and_fall_to_zero(base, files, tmp_path, monkeypatch):
    from bertft.finetuning import training

    rates = []
    step = training.FineTuning.training_step

    def spy(self, *args, **options):
        rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(training.FineTuning, "training_step", spy)
    run("mnli", base, files, tmp_path / "out", epochs=10, batch_size=12, warmup=0.1)
    wanted = [0.0, 5e-4, *(1e-3 * left / 18 for left in range(18, 0, -1))]
    assert rates == pytest.approx(wanted)


def test_early_stopping_keeps_the_best(base, files, tmp_path, monkeypatch):
    scores = iter([50.0, 80.0, 70.0, 60.0, 60.0])
    from bertft.finetuning.fitting import Fitting
    from bertft.finetuning.tasks import Scores

    at = []
    score = Fitting.score

    def told(self, model, examples, name=None):
        if name is not None:
            return score(self, model, examples, name)
        at.append({k: v.clone() for k, v in model.state_dict().items()})
        return Scores({"accuracy": next(scores)}, 1)

    monkeypatch.setattr(Fitting, "score", told)
    tuned = run("mnli", base, files, tmp_path / "out", epochs=9, patience=2)
    assert tuned.provenance["times"]["epochs"] == 4
    saved = weights(tmp_path / "out")
    assert all(torch.equal(saved[name], at[1][name]) for name in saved)


def test_a_loss_that_is_not_finite_ends_the_run(base, files, tmp_path):
    with pytest.raises(
        RuntimeError, match=r"loss must be finite, got (nan|inf) in step \d+; lower"
    ):
        run("mnli", base, files, tmp_path / "out", lr=1e30, clip=1e30, epochs=9)


def test_the_callers_random_states_are_kept(base, files, tmp_path):
    import random

    import numpy as np

    def states():
        return torch.rand(1).item(), np.random.random(), random.random()  # noqa: NPY002

    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    wanted = states()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    run("mnli", base, files, tmp_path / "out", epochs=1)
    assert states() == wanted


def test_seeds_decide(base, files, tmp_path):
    runs = [run("squad", base, files, tmp_path / str(i), seed=i // 2) for i in range(3)]
    a, b, c = (weights(found.folder) for found in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_a_new_pooler_is_drawn_by_the_seed(base, files, tmp_path):
    tuned = run("squad", base, files, tmp_path / "squad", epochs=1)
    still = {"epochs": 1, "lr": 1e-30}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("mnli", tuned.folder, files, tmp_path / name, seed=seed, **still)
    a, b, c = (weights(tmp_path / name)["bert.pooler.dense.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_model_in_memory_stays_as_it_is(make_model, tokenizer, files, tmp_path):
    model = make_model()
    before = fingerprint(model)
    tuned = run("mnli", model, files, tmp_path / "out", tokenizer=tokenizer, epochs=1)
    assert fingerprint(model) == before
    assert tuned.table["model"].iloc[0] == "BertModel"


def test_several_dev_sets_and_every_nth_example(base, files, tmp_path):
    train, dev = files["mnli"]
    other = dev.with_name("other.jsonl")
    shutil.copy(dev, other)
    tuned = finetune(
        "mnli", base, train, [dev, other], tmp_path / "out", dev_every=5, limit=10, **QUICK
    )
    assert list(tuned.table["corpus"]) == ["mnli-dev", "other"]
    assert list(tuned.table["n"]) == [3, 3]
    assert tuned.provenance["train"]["examples"] == 10
    assert re.fullmatch(r"mnli-dev: accuracy [\d.]+; other: accuracy [\d.]+", tuned.headline)


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_the_same_wherever_their_file_lies(task, files, tmp_path):
    train, dev = files[task]
    moved = shutil.copy(train, tmp_path / f"moved{train.suffix}")
    found = [
        task_of(task).read(str(path), skip_bad=False).fingerprint for path in (train, moved, dev)
    ]
    assert found[0] == found[1] != found[2]


def test_bad_answers_are_refused_or_counted(base, files, tmp_path):
    train = files["squad"][0]
    file = json.loads(train.read_text())
    file["data"][0]["paragraphs"][3]["qas"][0]["answers"][0]["answer_start"] += 1
    train.write_text(json.dumps(file))
    with pytest.raises(ValueError, match=r"squad-train.json.*q3.*skip_bad"):
        run("squad", base, files, tmp_path / "out")
    tuned = run("squad", base, files, tmp_path / "out", skip_bad=True)
    assert tuned.provenance["train"]["left_out"] == {"bad questions": 1}
    assert tuned.provenance["train"]["examples"] == 23


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"freeze": 4}, r"freeze must be in 0\.\.3 for a model of 3 blocks, got 4"),
        ({"keep": 4}, r"keep must be in 1\.\.3 for a model of 3 blocks, got 4"),
        ({"keep": 0}, r"keep must be in 1\.\.3"),
        ({"keep": 2, "freeze": 3}, r"freeze must be in 0\.\.2 for a model of 2 blocks, got 3"),
        ({"epochs": 0}, r"epochs must be at least 1, got 0"),
        ({"lr": -1.0}, r"lr must be positive and finite, got -1"),
        ({"max_length": 65}, r"max_length must be at most the 64 tokens that .* takes, got 65"),
        ({"limit": 0}, r"limit must be at least 1, got 0"),
        ({"dev_every": 0}, r"dev_every must be at least 1, got 0"),
        ({"dtype": "float16"}, r"dtype must be one of float32, bfloat16, got 'float16'"),
        ({"device": "tpu"}, r"\[finetune\] device must be cpu, cuda or auto, got 'tpu'"),
    ],
)
def test_settings_out_of_range(options, told, base, files, tmp_path):
    with pytest.raises(ValueError, match=told):
        run("mnli", base, files, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_known(base, files, tmp_path):
    train, dev = files["mnli"]
    with pytest.raises(
        ValueError, match=r"must be one of depparse, mnli, squad, tagging, got 'sst2'"
    ):
        finetune("sst2", base, train, dev, tmp_path / "out")
    with pytest.raises(TypeError, match=r"settings must be among .*, got 'epoch'"):
        finetune("mnli", base, train, dev, tmp_path / "out", epoch=3)
    with pytest.raises(ValueError, match=r"dev must be one or more files, got none"):
        finetune("mnli", base, train, [], tmp_path / "out")
    with pytest.raises(ValueError, match=r"dev must be different files"):
        finetune("mnli", base, train, [dev, dev], tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        finetune("mnli", base, tmp_path / "none.jsonl", dev, tmp_path / "out")


def test_a_run_is_not_replaced_unasked(base, files, tmp_path):
    out = tmp_path / "out"
    run("mnli", base, files, out, epochs=1)
    with pytest.raises(FileExistsError, match=r"must not hold another run"):
        run("mnli", base, files, out, epochs=1)
    tuned = run("mnli", base, files, out, epochs=1, keep=1, overwrite=True)
    assert load_encoder(str(out), torch.float32).config.num_hidden_layers == 1
    assert tuned.provenance["keep"] == 1
    (out / "provenance.json").write_text("{}")
    with pytest.raises(ValueError, match=r"folder must hold a fine-tuned model"):
        Finetuned.load(out)


def test_an_interrupted_replacement_of_a_run_goes_on(base, files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    before = run("mnli", base, files, out, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(4))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out, epochs=3, overwrite=True)
    assert Finetuned.load(out).table.equals(before.table)
    tuned = run("mnli", base, files, out, epochs=3, resume=True)
    assert tuned.provenance["times"]["resumed_from_step"] == 3
    assert Finetuned.load(out).provenance["recipe"]["epochs"] == 3
    assert not (out / "checkpoints").exists()


def test_a_run_killed_once_it_was_saved_is_finished(base, files, tmp_path, monkeypatch):
    from bertft import results

    save, out = results.save_run, tmp_path / "out"

    def die(*args, **options):
        save(*args, **options)
        raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(results, "save_run", die)
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out)
    saved = Finetuned.load(out)
    again = run("mnli", base, files, out, resume=True)
    assert again.table.equals(saved.table)
    assert again.provenance["times"]["resumed_from_step"] == 6
    assert not (out / "checkpoints").exists()


def test_bfloat16_trains_float32_weights(base, files, tmp_path):
    tuned = run("mnli", base, files, tmp_path / "out", dtype="bfloat16", freeze=1)
    assert {value.dtype for value in weights(tmp_path / "out").values()} == {torch.float32}
    assert "bfloat16" in tuned.provenance["prefix_cache"]


def test_a_resumed_run_tells_its_own_steps(base, files, tmp_path, monkeypatch):
    whole = run("mnli", base, files, tmp_path / "whole", epochs=3)
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(4))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out, epochs=3)
    resumed = run("mnli", base, files, out, epochs=3, resume=True)
    times = resumed.provenance["times"]
    assert times["resumed_from_step"] == 3
    assert times["loss"] == pytest.approx(whole.provenance["times"]["loss"], abs=0.1)
    assert len(times["epoch_s"]) == 2
    again = run("mnli", base, files, out, epochs=3, resume=True)
    assert again.table.equals(resumed.table)
    with pytest.raises(ValueError, match=r"same run, got epochs 3 in .* where this run has 4"):
        run("mnli", base, files, out, epochs=4, resume=True)


@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_a_step_are_averaged(task, checkpoint, files, tmp_path):
    base = checkpoint("still", **STILL)
    # Batches of one length, so that the mean of two means is the mean of all.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
        options = {"epochs": 1, "lr": 1e-9, "head_lr": 1e-9}
        one = run(task, base, files, tmp_path / "one", batch_size=8, **options)
        two = run(task, base, files, tmp_path / "two", batch_size=4, accumulate=2, **options)
    losses = [found.provenance["times"]["loss"] for found in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_model_with_labels_of_its_own_can_learn_another_task(base, files, tmp_path):
    first = run("mnli", base, files, tmp_path / "mnli", epochs=1)
    second = run("squad", first.folder, files, tmp_path / "squad", epochs=1)
    third = run("depparse", second.folder, files, tmp_path / "depparse", epochs=1)
    assert third.provenance["labels"] == ["case", "det", "nsubj", "obl", "punct", "root"]


def test_scores_that_are_no_numbers_are_no_result(base, files, tmp_path):
    rates = {"lr": 1e30, "head_lr": 1e30, "warmup": 0.0, "epochs": 1, "batch_size": 64}
    with pytest.raises(RuntimeError, match=r"scores must be numbers, got NaN; the training div"):
        run("mnli", base, files, tmp_path / "out", **rates)
    assert not (tmp_path / "out" / "provenance.json").exists()


def test_a_folder_with_something_else_in_it_is_not_written_to(base, files, tmp_path):
    before = weights(base)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"new or empty folder.*got 'config\.json' in"):
            run("mnli", base, files, base, overwrite=overwrite)
    assert all(torch.equal(value, before[name]) for name, value in weights(base).items())


def test_one_process_at_a_time(base, files, tmp_path):
    from bertft.files import locked

    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out", wait=True) as held:
        assert held
        with pytest.raises(FileExistsError, match=r"out must be free, got .* another process"):
            run("mnli", base, files, tmp_path / "out")


def test_a_disk_that_fills_up_at_the_end(base, files, tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    def fill(self, *args, **options):
        raise Exception("No space left on device (os error 28)")  # as tokenizers does

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", fill)
        with pytest.raises(OSError, match=r"room for checkpoints and the model.*from checkpoint-6"):
            run("mnli", base, files, out)
    assert run("mnli", base, files, out, resume=True).provenance["times"]["loss"] is None


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_left_out(file, base, files, tmp_path, monkeypatch):
    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("bertft.progress.Bar.follow", stop_after(5))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out)
    [checkpoint] = (out / "checkpoints").glob("checkpoint-*")
    whole = (checkpoint / file).read_bytes()
    (checkpoint / file).write_bytes(whole[: len(whole) // 2])
    tuned = run("mnli", base, files, out, resume=True)
    assert tuned.provenance["times"]["resumed_from_step"] == 0
    (out / "provenance.json").unlink()
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json must be JSON"):
        run("mnli", base, files, out, resume=True)


def test_early_stopping_survives_a_resume(base, files, tmp_path, monkeypatch):
    from bertft.finetuning.fitting import Fitting
    from bertft.finetuning.tasks import Scores

    score = Fitting.score

    def scripted(values):
        scores = iter(values)

        def told(self, model, examples, name=None):
            if name is not None:
                return score(self, model, examples, name)
            return Scores({"accuracy": next(scores)}, 1)

        return told

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Fitting, "score", scripted([80.0, 70.0]))
        patch.setattr("bertft.progress.Bar.follow", stop_after(7))
        with pytest.raises(InterruptionError):
            run("mnli", base, files, out, epochs=9, patience=2)
    monkeypatch.setattr(Fitting, "score", scripted([60.0]))
    tuned = run("mnli", base, files, out, epochs=9, patience=2, resume=True)
    assert tuned.provenance["times"]["epochs"] == 3


def test_too_little_room_for_text(base, files, tmp_path):
    for task, length in (("mnli", 4), ("depparse", 2), ("squad", 8)):
        with pytest.raises(ValueError, match=r"max_length must leave room for"):
            run(task, base, files, tmp_path / "out", max_length=length, epochs=1)


def test_skipping_and_windows_are_for_answers(base, files, tmp_path):
    with pytest.raises(ValueError, match=r"skip_bad must be off for depparse, got True"):
        run("depparse", base, files, tmp_path / "out", skip_bad=True)
    with pytest.raises(ValueError, match=r"doc_stride must be left out, got 8; it is for squad"):
        run("mnli", base, files, tmp_path / "out", doc_stride=8)


def test_cut_inputs_are_counted(base, files, tmp_path):
    tuned = run("mnli", base, files, tmp_path / "out", max_length=9, epochs=1)
    assert tuned.provenance["train"]["cut"] == 24
    assert tuned.provenance["notes"] == ["mnli-dev: 12 pairs are cut to 9 tokens"]


def test_corpora_whose_files_would_be_one(base, files, tmp_path):
    train, dev = files["mnli"]
    names = [dev.with_name("a b.jsonl"), dev.with_name("a-b.jsonl")]
    for name in names:
        shutil.copy(dev, name)
    finetune("mnli", base, train, names, tmp_path / "out", **{**QUICK, "epochs": 1})
    assert len(list((tmp_path / "out").glob("predictions-*.jsonl"))) == 2


def test_pairs_without_a_separator_get_a_line_end(checkpoint, tokenizer):
    recipe = Recipe(epochs=1, lr=1, batch_size=2, max_length=9)
    assert Tokens(tokenizer, recipe).first_of_pair("a cat") == "a cat"

    class Bare:
        pad_token_id, eos_token_id = None, 7

        def num_special_tokens_to_add(self, pair):
            return 0

    tokens = Tokens(Bare(), recipe)
    assert tokens.first_of_pair("a cat") == "a cat\n"
    assert tokens.pad_id == 7
