"""`finetune`: one model on one task, whole, with lower layers frozen or with upper layers cut off.

Composes the task, the model with its head, the frozen prefix and the training loop, and writes a
folder that holds the model, its scores and how they came about.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from bertft import results
from bertft.checkpoints import Checkpoint, fingerprint
from bertft.devices import find_device
from bertft.files import write_text
from bertft.finetuning.examples import Source, named
from bertft.finetuning.fitting import CHECKPOINTS, Fitting
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import Tokens, task_of
from bertft.progress import Display
from bertft.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model's folder, its scores and how they came about.

    Attributes:
        folder: with model, tokenizer, `results.parquet`, `results.csv`, `predictions.jsonl` of
            every dev set, and `provenance.json`.
        table: tidy pandas table with the columns `task, model, freeze, keep, depth, seed, corpus,
            measure, value, n`; values in percent, the headline measure first.
        provenance: data, recipe, versions, times and notes, as JSON types.
    """

    folder: Path
    table: pd.DataFrame
    provenance: dict[str, Any]

    @classmethod
    def load(cls, folder: Source) -> "Finetuned":
        """Read what `finetune` wrote.

        Raises:
            FileNotFoundError: the folder holds no finished run.
            ValueError: its files are damaged, or of something else.
        """
        table, provenance = results.load_run(folder)
        if provenance.get("kind") != "finetune":
            raise ValueError(
                f"[load] folder must hold a fine-tuned model, got something else in "
                f"{str(folder)!r}; pass the out of finetune."
            )
        return cls(Path(folder), table, provenance)

    @property
    def headline(self) -> str:
        """The scores in one line."""
        parts = [
            f"{corpus}: " + ", ".join(f"{row.measure} {row.value:.2f}" for row in rows.itertuples())
            for corpus, rows in self.table.groupby("corpus", sort=False)
        ]
        return "; ".join(parts)


def finetune(
    task: str,
    model: "str | Path | PreTrainedModel",
    train: Source,
    dev: Source | Sequence[Source],
    out: Source,
    *,
    freeze: int = 0,
    keep: int | None = None,
    limit: int | None = None,
    dev_every: int = 1,
    device: str = "cpu",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    prefix_cache: bool = True,
    cache_memory_gib: float = 2.0,
    cache_disk_gib: float = 20.0,
    skip_bad: bool = False,
    save_model: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Finetuned:
    """Fine-tune a pretrained encoder on a task, score it, and save it as any other model.

    With lower blocks frozen, what they return is computed once and not once an epoch
    (`prefix_cache`); dropout inside them is then off.

    Args:
        task: "depparse", "mnli" or "squad".
        model: folder, hub name, or a `PreTrainedModel`, which stays as it is.
        train: training file in a format of the task, or for mnli and squad `NAME:SPLIT` on the hub.
        dev: one or more of the same, scored at the end; the first one decides early stopping.
        out: the folder to make.
        freeze: k: embeddings and blocks 1..k keep their pretrained weights.
        keep: k: cut off the blocks above k; None keeps all.
        limit: training examples drawn uniformly; all by default.
        dev_every: score every n-th dev example, from the first.
        device: "cpu", "cuda" or "auto".
        tokenizer: by default the model's own.
        prefix_cache: False runs frozen blocks in every step, with their dropout.
        cache_memory_gib: most memory for it; more goes to disk, beside the checkpoints.
        cache_disk_gib: most disk for it; more is an error.
        skip_bad: leave out and count examples that contradict themselves, instead of an error.
        save_model: False keeps the scores only.
        resume: go on from the last whole checkpoint in `out`, one an epoch.
        overwrite: replace a run in `out`.
        progress: print a plan and show bars.
        **settings: of `Recipe` (epochs, lr, head_lr, batch_size, max_length, seed, ...); the task's
            defaults are the recipes of the literature.

    Raises:
        FileExistsError: `out` holds a run, or the checkpoints of one.
        FileNotFoundError: no such model or file.
        ValueError: data or settings out of range; the message says what to do.
        RuntimeError: a loss that is not finite, or no such device.
        OSError: a full disk; the last whole checkpoint is kept.
    """
    out, started = Path(out), results.now()
    display = Display(progress)
    job = task_of(task)
    recipe = job.recipe.with_settings(**settings)
    _require_free(out, resume=resume, overwrite=overwrite)
    where = find_device(device, "finetune")
    checkpoint, recipe = _opened(model, tokenizer, recipe, settings.get("max_length"))
    train_set = job.read(os.fspath(train), skip_bad=skip_bad).drawn(limit, recipe.seed)
    dev_sets = {
        name: job.read(path, skip_bad=skip_bad).every(dev_every)
        for name, path in named(dev).items()
    }
    labels = job.labels(train_set)
    depth = checkpoint.blocks.depth
    described = {
        "task": task,
        "labels": list(labels),
        "pretrained": fingerprint(checkpoint.encoder),
        "train": train_set.fingerprint,
        "freeze": freeze,
        "keep": _require_layers(depth, freeze, keep),
        "prefix_cache": prefix_cache,
        "recipe": dataclasses.asdict(recipe),
    }
    cache = (cache_memory_gib, cache_disk_gib) if prefix_cache else None
    fitting = Fitting(job, Tokens(checkpoint.tokenizer, recipe), labels, out, where, display, cache)
    first = next(iter(dev_sets.values()))
    fit = fitting.fit(checkpoint, train_set, first, described, resume=resume)
    began = time.perf_counter()
    scores = {name: fitting.score(fit.model, found, name) for name, found in dev_sets.items()}
    table = pd.DataFrame(
        {
            "task": task,
            "model": checkpoint.name,
            "freeze": freeze,
            "keep": described["keep"],
            "depth": depth,
            "seed": recipe.seed,
            "corpus": name,
            "measure": measure,
            "value": value,
            "n": found.n,
        }
        for name, found in scores.items()
        for measure, value in found.values.items()
    )
    provenance = {
        "kind": "finetune",
        "created": started,
        "versions": results.versions(),
        "model": {
            "name": checkpoint.name,
            "fingerprint": described["pretrained"],
            "architecture": type(checkpoint.encoder).__name__,
        },
        **{key: described[key] for key in ("task", "labels", "freeze", "keep", "recipe")},
        "depth": depth,
        "train": train_set.describe(),
        "dev": {name: found.describe() for name, found in dev_sets.items()},
        "options": {"limit": limit, "dev_every": dev_every, "device": str(where)},
        "prefix_cache": fit.prefix_cache,
        "parameters": fit.parameters,
        "threads": torch.get_num_threads(),
        "times": {**fit.times, "scoring_s": round(time.perf_counter() - began, 2)},
        "notes": [f"{name}: {note}" for name, found in scores.items() for note in found.notes],
    }

    def write(folder: Path) -> None:
        if save_model:
            with quiet():
                fit.model.save_pretrained(folder)
                checkpoint.tokenizer.save_pretrained(folder)
        for name, found in scores.items():
            lines = [json.dumps(line, ensure_ascii=False) for line in found.predictions]
            write_text(folder / f"predictions-{_file_name(name)}.jsonl", "\n".join(lines) + "\n")

    results.save_run(out, table, provenance, write, overwrite=overwrite)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return Finetuned(out, table, provenance)


def _require_free(out: Path, *, resume: bool, overwrite: bool) -> None:
    results.require_free(out, overwrite=overwrite)
    if (out / CHECKPOINTS).exists() and not (resume or overwrite):
        raise FileExistsError(
            f"[finetune] out must not hold the checkpoints of another run, got {str(out)!r}; go on "
            "with it (--resume), start anew (--overwrite), or pass another folder."
        )


def _require_layers(depth: int, frozen: int, keep: int | None) -> int:
    kept = depth if keep is None else keep
    if not 1 <= kept <= depth:
        raise ValueError(
            f"[finetune] keep must be in 1..{depth} for a model of {depth} blocks, got {kept}; "
            "pass fewer."
        )
    if not 0 <= frozen <= kept:
        raise ValueError(
            f"[finetune] freeze must be in 0..{kept} for a model of {kept} blocks, got {frozen}; "
            "pass fewer."
        )
    return kept


def _opened(
    model: "str | Path | PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    recipe: Recipe,
    asked: int | None,
) -> tuple[Checkpoint, Recipe]:
    checkpoint = Checkpoint.open(model, tokenizer=tokenizer)
    most = checkpoint.max_length
    if most is not None and recipe.max_length > most:
        if asked is not None:
            raise ValueError(
                f"[finetune] max_length must be at most the {most} tokens that "
                f"{checkpoint.name!r} takes, got {asked}; pass fewer."
            )
        stride = recipe.doc_stride and min(recipe.doc_stride, most // 4)
        recipe = recipe.with_settings(max_length=most, doc_stride=stride)
    return checkpoint, recipe


def _file_name(corpus: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in corpus).strip("-.")
