"""From a pretrained encoder to a trained model: its head, its frozen prefix, and the loop."""

import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertft.blocks import find_blocks
from bertft.checkpoints import Checkpoint
from bertft.finetuning.examples import Examples
from bertft.finetuning.prefix import GIB, Prefix, place_for, states_nbytes
from bertft.finetuning.resuming import open_checkpoints
from bertft.finetuning.tasks import Features, Predict, Scores, Task, Tokens
from bertft.models import encoder_of, freeze, truncate
from bertft.progress import Display
from bertft.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECKPOINTS, PREFIX_STATES = "checkpoints", "prefix"


@dataclass(frozen=True)
class Fit:
    """A trained model, how long it took, and where its frozen prefix came from."""

    model: "PreTrainedModel"
    times: Mapping[str, Any]
    prefix_cache: str
    cut_inputs: int

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers of weights: all, and those that trained."""
        return count_parameters(self.model)


@dataclass(frozen=True)
class Fitting:
    """Trains and scores models of one task.

    Attributes:
        task: what is learned.
        tokens: tokenizer and recipe.
        labels: the head's.
        out: folder of the run.
        device: where the model runs.
        display: shows the plan and the bars.
        cache: GiB of memory and of disk for a frozen prefix; None runs it in every step.
    """

    task: Task
    tokens: Tokens
    labels: Sequence[str]
    out: Path
    device: torch.device
    display: Display
    cache: tuple[float, float] | None

    def fit(
        self,
        checkpoint: Checkpoint,
        train: Examples,
        dev: Examples,
        described: Mapping[str, Any],
        *,
        resume: bool,
    ) -> Fit:
        """Train the pretrained encoder with a new head.

        Args:
            checkpoint: the encoder; it stays as it is.
            train: training examples.
            dev: decides early stopping.
            described: what a checkpoint must agree in to be resumed; `freeze` and `keep` are read.
            resume: go on from the last whole checkpoint, if there is one.
        """
        from transformers import set_seed

        from bertft.finetuning import training

        recipe, on_cpu = self.tokens.recipe, self.device.type == "cpu"
        folder = self.out / CHECKPOINTS
        with quiet(), training.random_states_kept(on_cpu):
            set_seed(recipe.seed)
            model = self._with_head(checkpoint)
            truncate(model, described["keep"])
            freeze(model, described["freeze"])
            # What transformers wraps `to` in hides its types.
            model.to(self.device)  # type: ignore[arg-type]
            rows = self.task.features(self.tokens, train.items, self.labels)
            last = open_checkpoints(folder, described, resume=resume)
            self.display.note(self._plan(model, train, rows, last))
            try:
                prefix, prefix_s, prefix_cache = self._prefix(model, described["freeze"], rows)
                with self.display.bar("training", 1, "steps") as bar:
                    trainer = training.FineTuning(
                        model,
                        recipe,
                        rows,
                        lambda batch: self.task.collate(batch, self.tokens.pad_id),
                        self.task.loss,
                        folder,
                        prefix=prefix,
                        dev_score=lambda: next(iter(self.score(model, dev).values.values())),
                        progress=bar.follow,
                        on_cpu=on_cpu,
                    )
                    began = time.perf_counter()
                    done = trainer.train(resume_from_checkpoint=str(last) if last else None)
            finally:
                shutil.rmtree(self.out / PREFIX_STATES, ignore_errors=True)
            _require_finite(model)
        before = int(last.name.split("-")[1]) if last else 0
        times = {
            "prefix_s": prefix_s,
            "training_s": round(time.perf_counter() - began, 2),
            "epoch_s": trainer.epoch_s,
            "steps": done.global_step,
            "epochs": round(float(trainer.state.epoch or 0), 3),
            "resumed_from_step": before,
            "loss": done.training_loss if done.global_step > before else None,
        }
        return Fit(model, times, prefix_cache, sum(row.get("cut", False) for row in rows))

    def score(
        self, model: "PreTrainedModel", examples: Examples, name: str | None = None
    ) -> Scores:
        """Score a model; with a name, under a bar."""
        if name is None:
            predict = Predict(model, self.task.collate, self.tokens)
            return self.task.score(self.tokens, examples.items, self.labels, predict)
        with self.display.bar(f"scoring {name}", len(examples.items), "inputs") as bar:
            predict = Predict(model, self.task.collate, self.tokens, bar.follow)
            scores = self.task.score(self.tokens, examples.items, self.labels, predict)
        for note in scores.notes:
            self.display.note(f"{name}: {note}")
        return scores

    def _with_head(self, checkpoint: Checkpoint) -> "PreTrainedModel":
        """The task's model with the pretrained encoder inside, in float32."""
        config = copy.deepcopy(checkpoint.encoder.config)
        config.dtype = torch.float32
        # Two outputs where there are no labels: the start and the end of a span.
        names = self.labels or ("start", "end")
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
        config.problem_type = None
        if config.pad_token_id is None:
            config.pad_token_id = self.tokens.pad_id
        model: PreTrainedModel = self.task.head()(config)
        encoder = encoder_of(model)
        found = encoder.load_state_dict(checkpoint.encoder.state_dict(), strict=False)
        # A pooler that the checkpoint lacks is as new as the head.
        late = tuple(f"{module}." for module in find_blocks(encoder).late)
        assert all(key.startswith(late) for key in found.missing_keys), found.missing_keys
        return model

    def _prefix(
        self, model: "PreTrainedModel", k: int, rows: Sequence[Features]
    ) -> tuple[Prefix | None, float, str]:
        """The prefix, the seconds it took, and what the record says of it."""
        if k == 0 or self.cache is None:
            return None, 0.0, "off" if k else "nothing is frozen"
        began = time.perf_counter()
        dtype = self.tokens.recipe.dtype
        prefix = Prefix(model, k, dtype)
        if not prefix.is_exact():
            return None, 0.0, "off: blocks hand on more than hidden states"
        size = states_nbytes(rows, find_blocks(encoder_of(model)), k, dtype)
        folder = self.out / PREFIX_STATES
        shutil.rmtree(folder, ignore_errors=True)
        place = place_for(size, folder, *self.cache)
        told = (
            f"{size / GIB:.2f} GiB in {'memory' if place is None else 'shards on disk'}, "
            f"{dtype}; dropout inside the frozen prefix was off"
        )
        self.display.note(f"frozen prefix, computed once: {told}")
        with self.display.bar("frozen prefix", len(rows), "inputs") as bar:
            prefix.compute(rows, self.tokens, place, bar.advance)
        return prefix, round(time.perf_counter() - began, 2), told

    def _plan(
        self,
        model: "PreTrainedModel",
        train: Examples,
        rows: Sequence[Features],
        last: Path | None,
    ) -> str:
        recipe, counts = self.tokens.recipe, count_parameters(model)
        tokens = np.mean([len(row["input_ids"]) for row in rows])
        steps = -(-len(rows) // (recipe.batch_size * recipe.accumulate)) * recipe.epochs
        # Weights, gradients and AdamW's two moments, in float32.
        memory = (4 * counts["all"] + 12 * counts["trained"]) / GIB
        start = f", resumed from {last.name}" if last else ""
        cut = sum(row.get("cut", False) for row in rows)
        start += f"; {cut:,} inputs are cut to {recipe.max_length} tokens" if cut else ""
        return (
            f"{self.task.name}: {len(train.items):,} examples, {len(rows):,} inputs of "
            f"{tokens:.0f} tokens, {recipe.epochs} epochs, {steps:,} steps; "
            f"{counts['trained']:,} of {counts['all']:,} weights train, {memory:.2f} GiB with "
            f"their optimizer{start}"
        )


def _require_finite(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise RuntimeError(
                f"[finetune] weights must be finite after training, got NaN or infinity in {name!r}"
                "; lower the learning rate."
            )


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Return the numbers of all weights and of those that train."""
    parameters = list(model.parameters())
    return {
        "all": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }
