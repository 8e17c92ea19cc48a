"""`finetune`: one model on one task, whole, with lower layers frozen or with upper layers cut off.

Composes the task, the model with its head, the frozen prefix and the training loop, and writes a
folder that holds the model, its scores and how they came about.
"""

import copy
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from bertft import results
from bertft.checkpoints import Checkpoint, fingerprint
from bertft.devices import find_device
from bertft.files import write_text
from bertft.finetuning.prefix import GIB, Prefix, place_for
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import Examples, Features, Predict, Scores, Task, Tokens, task_of
from bertft.models import encoder_of, freeze, truncate
from bertft.progress import Display
from bertft.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHECKPOINTS, PREFIX_STATES = "checkpoints", "prefix"
Source = str | os.PathLike[str]


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
    tokens = Tokens(checkpoint.tokenizer, recipe)
    train_set = _drawn(job.read(os.fspath(train), skip_bad=skip_bad), limit, recipe.seed)
    dev_sets = {
        name: _every(job.read(path, skip_bad=skip_bad), dev_every)
        for name, path in _named(dev).items()
    }
    labels = job.labels(train_set)
    depth = checkpoint.blocks.depth
    cut = _require_layers(depth, freeze, keep)
    described = {
        "task": task,
        "labels": list(labels),
        "pretrained": fingerprint(checkpoint.encoder),
        "train": _digest(train_set),
        "freeze": freeze,
        "keep": cut,
        "prefix_cache": prefix_cache,
        "recipe": dataclasses.asdict(recipe),
    }
    run = _Run(job, tokens, labels, display, where, out)
    tuned, times = run.train(
        checkpoint,
        train_set,
        dev_sets,
        described,
        cache=(cache_memory_gib, cache_disk_gib) if prefix_cache and freeze else None,
        resume=resume,
    )
    scored = time.perf_counter()
    scores = {name: run.score(tuned, examples, name) for name, examples in dev_sets.items()}
    times["scoring_s"] = round(time.perf_counter() - scored, 2)
    table = pd.DataFrame(
        {
            "task": task,
            "model": checkpoint.name,
            "freeze": freeze,
            "keep": cut,
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
        "train": _told(train, train_set, described["train"]),
        "dev": [
            _told(path, dev_sets[name], _digest(dev_sets[name])) for name, path in _named(dev).items()
        ],
        "options": {"limit": limit, "dev_every": dev_every, "device": str(where)},
        "prefix_cache": run.cache_note or ("nothing is frozen" if not freeze else "off"),
        "parameters": _counts(tuned),
        "threads": torch.get_num_threads(),
        "times": times,
        "notes": [f"{name}: {note}" for name, found in scores.items() for note in found.notes],
    }

    def write(folder: Path) -> None:
        if save_model:
            with quiet():
                tuned.save_pretrained(folder)
                checkpoint.tokenizer.save_pretrained(folder)
        for name, found in scores.items():
            lines = [json.dumps(line, ensure_ascii=False) for line in found.predictions]
            write_text(folder / f"predictions-{_file_name(name)}.jsonl", "\n".join(lines) + "\n")

    results.save_run(out, table, provenance, write, overwrite=overwrite)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return Finetuned(out, table, provenance)


class _Run:
    """A task with its tokens, labels and place, as training and scoring need it."""

    def __init__(
        self,
        task: Task,
        tokens: Tokens,
        labels: Sequence[str],
        display: Display,
        device: torch.device,
        out: Path,
    ) -> None:
        self.task, self.tokens, self.labels = task, tokens, labels
        self.display, self.device, self.out = display, device, out
        self.cache_note: str | None = None

    def train(
        self,
        checkpoint: Checkpoint,
        train: Examples,
        dev: Mapping[str, Examples],
        described: Mapping[str, Any],
        *,
        cache: tuple[float, float] | None,
        resume: bool,
    ) -> "tuple[PreTrainedModel, dict[str, float]]":
        from transformers import set_seed

        from bertft.finetuning import training

        recipe, on_cpu = self.tokens.recipe, self.device.type == "cpu"
        folder = self.out / CHECKPOINTS
        with quiet(), training.random_states_kept(on_cpu), training.telling_full_disks(folder):
            set_seed(recipe.seed)
            model = self._with_head(checkpoint)
            truncate(model, described["keep"])
            freeze(model, described["freeze"])
            model.to(self.device)
            rows = self.task.features(self.tokens, train.items, self.labels)
            last = training.open_checkpoints(folder, described, resume=resume)
            self.display.note(self._plan(model, train, rows, last))
            prefix, prefix_s = self._prefix(model, described["freeze"], rows, cache)
            first = next(iter(dev))
            with self.display.bar("training", 1, "steps") as bar:
                trainer = training.FineTuning(
                    model,
                    recipe,
                    rows,
                    lambda batch: self.task.collate(batch, self.tokens.pad_id),
                    folder,
                    prefix=prefix,
                    dev_score=lambda: self._headline(model, dev[first]),
                    progress=bar.follow,
                    on_cpu=on_cpu,
                )
                began = time.perf_counter()
                done = trainer.train(resume_from_checkpoint=str(last) if last else None)
            times = {
                "prefix_s": prefix_s,
                "training_s": round(time.perf_counter() - began, 2),
                "steps": done.global_step,
                "epochs": round(float(trainer.state.epoch or 0), 3),
                "loss": done.training_loss,
            }
            shutil.rmtree(self.out / PREFIX_STATES, ignore_errors=True)
        return model, times

    def score(self, model: "PreTrainedModel", examples: Examples, name: str) -> Scores:
        with self.display.bar(f"scoring {name}", len(examples.items), "examples") as bar:
            predict = Predict(model, self.task.collate, self.tokens, bar.advance)
            scores = self.task.score(self.tokens, examples.items, self.labels, predict)
        for note in scores.notes:
            self.display.note(f"{name}: {note}")
        return scores

    def _headline(self, model: "PreTrainedModel", examples: Examples) -> float:
        predict = Predict(model, self.task.collate, self.tokens)
        scores = self.task.score(self.tokens, examples.items, self.labels, predict)
        return next(iter(scores.values.values()))

    def _with_head(self, checkpoint: Checkpoint) -> "PreTrainedModel":
        """The task's model with the pretrained encoder inside, in float32."""
        config = copy.deepcopy(checkpoint.encoder.config)
        config.dtype = torch.float32
        if self.labels:
            config.id2label = dict(enumerate(self.labels))
            config.label2id = {label: number for number, label in enumerate(self.labels)}
        if config.pad_token_id is None:
            config.pad_token_id = self.tokens.pad_id
        model: PreTrainedModel = self.task.head()(config)
        found = encoder_of(model).load_state_dict(checkpoint.encoder.state_dict(), strict=False)
        assert not found.missing_keys, found.missing_keys
        return model

    def _prefix(
        self,
        model: "PreTrainedModel",
        k: int,
        rows: Sequence[Features],
        cache: tuple[float, float] | None,
    ) -> tuple[Prefix | None, float]:
        if cache is None:
            return None, 0.0
        began = time.perf_counter()
        prefix = Prefix(model, k)
        dtype = torch.bfloat16 if self.tokens.recipe.dtype == "bfloat16" else torch.float32
        size = prefix.nbytes(rows, dtype)
        folder = self.out / PREFIX_STATES
        shutil.rmtree(folder, ignore_errors=True)
        place = place_for(size, folder, *cache)
        self.cache_note = (
            f"{size / GIB:.2f} GiB in {'memory' if place is None else 'shards on disk'}, "
            f"{str(dtype).removeprefix('torch.')}; dropout inside the frozen prefix was off"
        )
        self.display.note(f"frozen prefix: computed once, {self.cache_note}")
        with self.display.bar("frozen prefix", len(rows), "examples") as bar:
            prefix.compute(
                rows,
                self.tokens.pad_id,
                self.tokens.recipe.batch_size,
                self.tokens.recipe.dtype,
                place,
                bar.advance,
            )
        return prefix, round(time.perf_counter() - began, 2)

    def _plan(
        self,
        model: "PreTrainedModel",
        train: Examples,
        rows: Sequence[Features],
        last: Path | None,
    ) -> str:
        recipe, counts = self.tokens.recipe, _counts(model)
        lengths = [len(row["input_ids"]) for row in rows]
        steps = -(-len(rows) // (recipe.batch_size * recipe.accumulate)) * recipe.epochs
        # Weights, gradients and AdamW's two moments, in float32.
        memory = (4 * counts["all"] + 12 * counts["trained"]) / GIB
        start = f", resumed from {last.name}" if last else ""
        return (
            f"{self.task.name}: {len(train.items):,} examples, {len(rows):,} inputs of "
            f"{np.mean(lengths):.0f} tokens, {recipe.epochs} epochs, {steps:,} steps; "
            f"{counts['trained']:,} of {counts['all']:,} weights train, {memory:.2f} GiB with "
            f"their optimizer{start}"
        )


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


def _named(dev: Source | Sequence[Source]) -> dict[str, str]:
    """Paths by the name of their file, or by the whole path where two names are alike."""
    paths = [os.fspath(path) for path in ([dev] if isinstance(dev, (str, os.PathLike)) else dev)]
    if not paths:
        raise ValueError("[finetune] dev must be one or more files, got none; pass one.")
    stems = [Path(path).stem for path in paths]
    named = {
        stem if stems.count(stem) == 1 else path: path
        for stem, path in zip(stems, paths, strict=True)
    }
    if len(named) < len(paths):
        raise ValueError(f"[finetune] dev must be different files, got {paths}; pass each once.")
    return named


def _drawn(examples: Examples, limit: int | None, seed: int) -> Examples:
    items = examples.items
    if limit is not None and limit < 1:
        raise ValueError(f"[finetune] limit must be at least 1, got {limit}; pass more.")
    if limit is not None and limit < len(items):
        chosen = np.random.default_rng(seed).choice(len(items), limit, replace=False)
        items = [items[i] for i in sorted(chosen)]
    return _require_items(Examples(items, examples.left_out), "train")


def _every(examples: Examples, n: int) -> Examples:
    if n < 1:
        raise ValueError(f"[finetune] dev_every must be at least 1, got {n}; pass more.")
    return _require_items(Examples(examples.items[::n], examples.left_out), "dev")


def _require_items(examples: Examples, name: str) -> Examples:
    if not examples.items:
        raise ValueError(
            f"[finetune] {name} must hold at least one example, got none; check the file."
        )
    return examples


def _digest(examples: Examples) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for item in examples.items:
        digest.update(repr(item).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _told(path: Source, examples: Examples, digest: str) -> dict[str, Any]:
    left_out = {what: count for what, count in examples.left_out.items() if count}
    return {
        "source": os.fspath(path),
        "examples": len(examples.items),
        "left_out": left_out,
        "fingerprint": digest,
    }


def _counts(model: torch.nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    return {
        "all": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def _file_name(corpus: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in corpus).strip("-.")
