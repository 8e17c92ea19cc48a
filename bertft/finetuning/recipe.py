"""How a model is fine-tuned: the settings of a run, under one name everywhere.

Owns the settings' ranges. Each task brings its defaults: the recipes of Merchant et al. 2020 and
of the papers that it follows.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """Settings of a fine-tuning run.

    AdamW; the rate rises linearly over the first tenth of the steps (`warmup`) and falls linearly
    to zero; the norm of the gradient is clipped to `clip`.

    Attributes:
        epochs: passes over the training examples.
        lr: learning rate of the encoder at its peak.
        head_lr: the same for the head; None for `lr`.
        batch_size: examples a batch.
        accumulate: batches whose gradients are added up for a step.
        max_length: tokens of an input, special ones included; longer ones are cut.
        doc_stride: tokens that two windows of a long context share (question answering only).
        weight_decay: of matrices; biases and norms have none.
        warmup: share of the steps, below 1.
        clip: most that the gradient's norm may be.
        patience: stop after so many epochs without gain on the first dev set, and keep the best;
            None trains all epochs and keeps the last.
        dtype: "float32", or "bfloat16" for autocast over float32 weights, in training and scoring.
        seed: of the head, the order of examples and dropout.
    """

    epochs: int
    lr: float
    batch_size: int
    max_length: int
    head_lr: float | None = None
    accumulate: int = 1
    doc_stride: int | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    patience: int | None = None
    dtype: str = "float32"
    seed: int = 0

    def with_settings(self, **settings: Any) -> "Recipe":
        """Return the recipe with the given settings; None leaves one as it is.

        Raises:
            ValueError: a setting out of range, or one that the task does not have.
            TypeError: no such setting.
        """
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(settings) - known):
            raise TypeError(
                f"[finetune] settings must be among {', '.join(sorted(known))}, got "
                f"{unknown[0]!r}; check the name."
            )
        if settings.get("doc_stride") is not None and self.doc_stride is None:
            raise ValueError(
                f"[finetune] doc_stride must be left out, got {settings['doc_stride']}; it is for "
                "squad, whose contexts are cut into windows."
            )
        recipe = replace(self, **{k: v for k, v in settings.items() if v is not None})
        recipe._check()
        return recipe

    def _check(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "max_length", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"[finetune] {name} must be at least 1, got {value}; pass more.")
        for name in ("lr", "head_lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(
                    f"[finetune] {name} must be positive and finite, got {value}; 5e-5 suits most "
                    "encoders, 1e-3 most heads."
                )
        for name in ("warmup", "weight_decay"):
            # transformers takes a warm-up of 1 for one step.
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"[finetune] {name} must be in [0, 1), got {getattr(self, name)}; pass one in "
                    "that range."
                )
        if self.doc_stride is not None and self.doc_stride < 0:
            raise ValueError(
                f"[finetune] doc_stride must be at least 0, got {self.doc_stride}; pass more."
            )
        if self.dtype not in DTYPES:
            raise ValueError(
                f"[finetune] dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}; pass "
                "its name."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"[finetune] seed must be in [0, 2**32), got {self.seed}; pass another one."
            )
