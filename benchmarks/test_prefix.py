"""Epochs of MiniLM with 5 of its 6 blocks frozen: the prefix in every step, or computed once.

Epochs after the first, as the Trainer runs them, without what comes before the first and without
checkpoints; each way is run anew in every round, in turns. Equal losses first, with dropout off.
"""

from functools import cache

import pytest
import torch
from conftest import aim, shared, tell

from bertft.checkpoints import Checkpoint
from bertft.devices import find_device
from bertft.finetuning.fitting import Fitting
from bertft.finetuning.tasks import Tokens, task_of
from bertft.progress import Display

FROZEN, EXAMPLES, EPOCHS, ROUNDS = 5, 640, 3, 2
DISK, MEMORY = (0.0, 20.0), (20.0, 0.0)
WAYS = {"plain": None, "prefix in shards on disk": DISK, "prefix in memory": MEMORY}
TRAIN = {
    "mnli": "mnli/train_subset.jsonl",
    "depparse": "ud_english_ewt/en_ewt-ud-train.conllu",
}
# How many times faster an epoch from shards on disk must be than the plain way.
FASTER = {"mnli": 2.5, "depparse": 1.9}
TIMES = {}


@cache
def training_set(task):
    return task_of(task).read(str(shared() / "data" / TRAIN[task]), skip_bad=False)


def fit(task, budget, out, examples, epochs, *, dropout=True):
    """Train; return the seconds of the epochs after the first, and the mean loss."""
    job = task_of(task)
    recipe = job.recipe.with_settings(epochs=epochs, lr=1e-4, head_lr=1e-3, dtype="bfloat16")
    checkpoint = Checkpoint.open(str(shared() / "models" / "minilm"))
    if not dropout:
        config = checkpoint.encoder.config
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        recipe = recipe.with_settings(dtype="float32")
    train = training_set(task).drawn(examples)
    tokens, labels = Tokens(checkpoint.tokenizer, recipe), job.labels(train)
    fitting = Fitting(job, tokens, labels, out, find_device("cpu", ""), Display(False), budget)
    with pytest.MonkeyPatch.context() as patch:
        if not dropout:  # the head's is no setting
            patch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
        described = {"freeze": FROZEN, "keep": 6}
        done = fitting.fit(checkpoint, train, train, described, resume=False)
    return done.times["epoch_s"][1:], done.times["loss"]


def measure(task, out):
    losses = [fit(task, budget, out, 64, 2, dropout=False)[1] for budget in WAYS.values()]
    assert losses == pytest.approx(losses[:1] * len(WAYS), rel=1e-5)
    TIMES[task] = {way: [] for way in WAYS}
    for turn in range(ROUNDS):
        for way in list(WAYS)[:: 1 if turn % 2 else -1]:
            TIMES[task][way] += fit(task, WAYS[way], out, EXAMPLES, EPOCHS)[0]


@pytest.mark.parametrize("who", WAYS)
@pytest.mark.parametrize("task", TRAIN)
def test_epoch(benchmark, tmp_path, task, who):
    benchmark.group = f"an epoch of {task}, MiniLM, 5 of 6 blocks frozen, {EXAMPLES:,} examples"
    if task not in TIMES:
        measure(task, tmp_path)
    if WAYS[who] == DISK:
        aim(benchmark, most=1 / FASTER[task])
    tell(benchmark, TIMES[task][who])
