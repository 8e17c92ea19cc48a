"""The training loop: transformers' Trainer with two rates, a frozen prefix and checkpoints.

Owns the optimizer's groups and what a step does; `resuming` knows which checkpoints are whole.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bertft.finetuning.prefix import Prefix
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import Features
from bertft.models import encoder_of


class FineTuning(Trainer):
    """Trains a model on the features of a task.

    Args:
        model: with the task's head; frozen parameters do not train.
        recipe: its settings.
        rows: inputs of the training examples.
        collate: makes batches of them.
        loss: of the model on a batch, a mean.
        folder: for checkpoints, one an epoch.
        prefix: stands in for the frozen blocks, or None.
        dev_score: the headline measure on the first dev set, for early stopping.
        progress: called with (steps done, steps in all) after every step.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        recipe: Recipe,
        rows: Sequence[Features],
        collate: Callable[[Sequence[Features]], dict[str, Tensor]],
        loss: Callable[[nn.Module, dict[str, Tensor]], Tensor],
        folder: Path,
        *,
        prefix: Prefix | None = None,
        dev_score: Callable[[], float] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        on_cpu: bool = True,
    ) -> None:
        self._recipe = recipe
        self._loss = loss
        self._prefix = prefix
        self._dev_score = dev_score

        def batch(numbered: Sequence[Features]) -> dict[str, Tensor]:
            made = collate(numbered)
            if prefix is not None:
                made["prefix_states"] = prefix.batch([row["number"] for row in numbered])
            return made

        self._progress = _Progress(progress)
        callbacks: list[TrainerCallback] = [self._progress]
        if recipe.patience is not None:
            callbacks.append(EarlyStoppingCallback(recipe.patience))
        numbered = [{**row, "number": number} for number, row in enumerate(rows)]
        super().__init__(
            model,
            _arguments(recipe, folder, on_cpu),
            data_collator=batch,
            train_dataset=numbered,
            eval_dataset=numbered[:1],
            callbacks=callbacks,
        )
        # Losses are means of their batches, so the Trainer must average those of a step.
        self.model_accepts_loss_kwargs = False
        # Without bars the Trainer prints its summary.
        self.remove_callback(PrinterCallback)

    @property
    def epoch_s(self) -> list[float]:
        """Seconds of every epoch of this run, without checkpoints."""
        return self._progress.epoch_s

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW in four groups: encoder and head, with and without weight decay."""
        if self.optimizer is None:
            assert isinstance(self.model, PreTrainedModel)
            groups = parameter_groups(self.model, self._recipe)
            self.optimizer = torch.optim.AdamW(groups, lr=self._recipe.lr, fused=True)
        return self.optimizer

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """One batch forward and backward; a loss that is not finite ends the run."""
        loss = super().training_step(*args, **options)
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"[finetune] loss must be finite, got {float(loss)} in step "
                f"{self.state.global_step + 1}; lower the learning rate, or use float32."
            )
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any
    ) -> Any:
        """The task's loss, from block k + 1 upwards where the prefix stands in."""
        states = inputs.pop("prefix_states", None)
        frozen = self._prefix.standing_in(states) if self._prefix is not None else nullcontext()
        with frozen:
            return self._loss(model, inputs)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Score the first dev set, for early stopping."""
        assert self._dev_score is not None
        metrics = {"eval_score": self._dev_score()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def parameter_groups(model: PreTrainedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters that train, by learning rate and weight decay: only matrices decay."""
    encoder = {id(p) for p in encoder_of(model).parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = recipe.lr if id(parameter) in encoder else recipe.head_lr or recipe.lr
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": group, "lr": rate, "weight_decay": decay}
        for (rate, decay), group in groups.items()
    ]


class _Progress(TrainerCallback):
    """Tells the steps done, and keeps the seconds of every epoch, checkpoints left out."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self.epoch_s: list[float] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.epoch_s.append(round(time.perf_counter() - self._began, 3))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(state.global_step, state.max_steps)


def _arguments(recipe: Recipe, folder: Path, on_cpu: bool) -> TrainingArguments:
    stopping: dict[str, Any] = {}
    if recipe.patience is not None:
        stopping = {
            "eval_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": "score",
            "greater_is_better": True,
            "restore_callback_states_from_checkpoint": True,
        }
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=recipe.lr,
        lr_scheduler_type="linear",
        warmup_steps=recipe.warmup,
        max_grad_norm=recipe.clip,
        bf16=recipe.dtype == "bfloat16",
        seed=recipe.seed,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **stopping,
    )


@contextmanager
def random_states_kept(on_cpu: bool) -> Iterator[None]:
    """Restore the random states that the Trainer seeds."""
    import numpy as np

    # Reading the state of a GPU that nobody uses yet would start CUDA.
    started = not on_cpu or bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(range(torch.cuda.device_count()) if started else ()):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
