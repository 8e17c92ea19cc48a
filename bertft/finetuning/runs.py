"""`finetune`: one model on one task, whole, with lower layers frozen or with upper layers cut off.

Composes the task, the model with its head, the frozen prefix and the training loop, and writes a
folder that holds the model, its scores and how they came about.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from bertft import results
from bertft.files import locked, write_text
from bertft.finetuning.examples import Source
from bertft.finetuning.fitting import CHECKPOINTS, Fitting
from bertft.finetuning.preparing import prepare
from bertft.finetuning.resuming import require_same, telling_full_disks
from bertft.finetuning.tasks import Scores
from bertft.progress import Display
from bertft.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


KIND = "finetune"


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model's folder, its scores and how they came about.

    Attributes:
        folder: with model, tokenizer, `results.parquet`, `results.csv`, `provenance.json`, and for
            every dev set `predictions-NAME.jsonl`, an object a line: `id`, `line`, `heads`,
            `labels` or `tags` of a sentence, `line`, `label` of a pair, or `id`, `answer` of a
            question.
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
        if provenance.get("kind") != KIND:
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
    command: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> Finetuned:
    """Fine-tune a pretrained encoder on a task, score it, and save it as any other model.

    With lower blocks frozen, what they return is computed once and not once an epoch
    (`prefix_cache`); dropout inside them is then off.

    Args:
        task: "depparse", "mnli", "squad" or "tagging".
        model: folder, hub name, or a `PreTrainedModel`, which stays as it is.
        train: CoNLL-U for depparse and tagging; JSON lines, TSV or `NAME:SPLIT` on the hub for
            mnli; SQuAD's JSON or `NAME:SPLIT` for squad.
        dev: one or more of the same, scored at the end; the first one decides early stopping.
        out: a folder that is new or empty, or holds an earlier run.
        freeze: k: embeddings and blocks 1..k keep their pretrained weights.
        keep: k: cut off the blocks above k; None keeps all.
        limit: training examples drawn uniformly, the same ones for every seed; all by default.
        dev_every: score every n-th dev example, from the first.
        device: "cpu", "cuda" or "auto".
        tokenizer: by default the model's own.
        prefix_cache: False runs frozen blocks in every step, with their dropout.
        cache_memory_gib: most memory for it; more goes to disk, beside the checkpoints.
        cache_disk_gib: most disk for it; more is an error.
        skip_bad: leave out and count questions whose answers contradict their offsets, instead of
            an error (squad only).
        save_model: False keeps the scores only.
        resume: go on from the last whole checkpoint in `out`, one an epoch; a run that is finished
            is returned as it is, if it was scored on the same dev sets.
        overwrite: replace a run in `out`, with all files that it left.
        command: what was typed to start the run, for its record.
        progress: print a plan and show bars.
        **settings: of `Recipe` (epochs, lr, head_lr, batch_size, max_length, seed, ...); the task's
            defaults are the recipes of the literature.

    Raises:
        FileExistsError: `out` holds a run, the checkpoints of one, or anything else; or another
            process is at work in it.
        FileNotFoundError: no such model or file.
        ValueError: data or settings out of range; the message says what to do.
        RuntimeError: a loss that is not finite, or no such device.
        OSError: a full disk; the last whole checkpoint is kept.
    """
    out, started = Path(out), results.now()
    display = Display(progress)
    _require_free(out, resume=resume, overwrite=overwrite)
    run = prepare(
        task,
        model,
        train,
        dev,
        freeze=freeze,
        keep=keep,
        limit=limit,
        dev_every=dev_every,
        device=device,
        tokenizer=tokenizer,
        prefix_cache=prefix_cache,
        cache_memory_gib=cache_memory_gib,
        cache_disk_gib=cache_disk_gib,
        skip_bad=skip_bad,
        **settings,
    )
    for name, found in {"train": run.train, **run.dev}.items():
        for what, count in found.left_out.items():
            if count:
                display.note(f"{name}: {count:,} {what} left out")
    described, depth = run.described(), run.checkpoint.blocks.depth
    # Checkpoints may go on with other dev sets; results are of these.
    finishing = {
        **described,
        "dev_every": dev_every,
        "dev": {name: found.fingerprint for name, found in run.dev.items()},
        "save_model": save_model,
    }
    # Checkpoints beside a finished run are of one that is to replace it.
    if resume and _is_run(out) and not (out / CHECKPOINTS).exists():
        finished = Finetuned.load(out)
        require_same(finished.provenance["run"], finishing, out)
        display.note(f"{out} is finished already")
        return finished
    fitting = Fitting(run.task, run.tokens, run.labels, out, run.device, display, run.cache)
    with _alone(out), telling_full_disks(out / CHECKPOINTS):
        fit = fitting.fit(run.checkpoint, run.train, run.first, described, resume=resume)
        began = time.perf_counter()
        scores = {name: fitting.score(fit.model, found, name) for name, found in run.dev.items()}
        table = _tidy(
            scores,
            task=task,
            model=run.checkpoint.name,
            freeze=freeze,
            keep=described["keep"],
            depth=depth,
            seed=run.recipe.seed,
        )
        provenance = {
            "kind": KIND,
            "created": started,
            "command": command,
            "versions": results.versions(),
            "model": {
                "name": run.checkpoint.name,
                "fingerprint": described["pretrained"],
                "architecture": type(run.checkpoint.encoder).__name__,
            },
            **{key: described[key] for key in ("task", "labels", "freeze", "keep")},
            "depth": depth,
            "recipe": dataclasses.asdict(run.recipe),
            "train": {**run.train.describe(), "cut": fit.cut_inputs},
            "dev": {name: found.describe() for name, found in run.dev.items()},
            "options": {
                **run.options,
                "device": str(run.device),
                "threads": torch.get_num_threads(),
            },
            "prefix_cache": fit.prefix_cache,
            "parameters": fit.parameters,
            "times": {**fit.times, "scoring_s": round(time.perf_counter() - began, 2)},
            "run": finishing,
            "notes": [f"{name}: {note}" for name, found in scores.items() for note in found.notes],
        }

        def write(folder: Path) -> None:
            if save_model:
                with quiet():
                    fit.model.save_pretrained(folder)
                    run.checkpoint.tokenizer.save_pretrained(folder)
            for name, file in _prediction_files(scores).items():
                lines = [json.dumps(line, ensure_ascii=False) for line in scores[name].predictions]
                write_text(folder / file, "\n".join(lines) + "\n")

        results.save_run(out, table, provenance, write, overwrite=overwrite or resume)
        # In one step, so that a kill leaves none of them or all: they would be gone on with.
        (out / CHECKPOINTS).rename(out / f".{out.name}.{CHECKPOINTS}")
        _clear_leftovers(out)
        return Finetuned(out, table, provenance)


def _tidy(scores: Mapping[str, Scores], **columns: Any) -> pd.DataFrame:
    """A row for every dev set and measure."""
    return pd.DataFrame(
        {**columns, "corpus": name, "measure": measure, "value": value, "n": found.n}
        for name, found in scores.items()
        for measure, value in found.values.items()
    )


def _require_free(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds anything but an earlier run."""
    results.require_free(out, overwrite=overwrite or resume)
    if not out.is_dir():
        return
    found = sorted(path for path in out.iterdir() if not path.name.startswith(f".{out.name}."))
    if found and not (_is_run(out) or (out / CHECKPOINTS).exists()):
        raise FileExistsError(
            f"[finetune] out must be a new or empty folder, or hold an earlier run, got "
            f"{found[0].name!r} in {str(out)!r}; pass another folder."
        )
    if (out / CHECKPOINTS).exists() and not (resume or overwrite):
        raise FileExistsError(
            f"[finetune] out must not hold the checkpoints of another run, got {str(out)!r}; go on "
            "with it (--resume), start anew (--overwrite), or pass another folder."
        )


def _is_run(out: Path) -> bool:
    if not (out / results.PROVENANCE).is_file():
        return False
    return bool(results.load_run(out)[1].get("kind") == KIND)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder's lock, so that no two processes train into it; clear what a kill left."""
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, wait=False) as held:
        if not held:
            raise FileExistsError(
                f"[finetune] out must be free, got {str(out)!r}, into which another process "
                "trains; wait for it, or pass another folder."
            )
        _clear_leftovers(out)
        yield


def _clear_leftovers(out: Path) -> None:
    for leftover in out.glob(f".{out.name}.*"):
        shutil.rmtree(leftover)


def _prediction_files(corpora: Iterable[str]) -> dict[str, str]:
    """A file name for each corpus, with a number where letters that files do not take differ."""
    files: dict[str, str] = {}
    for corpus in corpora:
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in corpus).strip("-.")
        name, number = f"predictions-{plain}.jsonl", 2
        while name in files.values():
            name, number = f"predictions-{plain}-{number}.jsonl", number + 1
        files[corpus] = name
    return files
