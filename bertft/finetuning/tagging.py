"""Fine-tuning for part-of-speech tagging, or any task with one label for each word.

Owns how words become labeled pieces and how the tagger is trained and scored. What the training
did to the representations is for the comparison of the two folders to say.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bertft.corpora import Text
from bertft.finetuning.tasks import NO_WORD, word_of_piece
from bertft.models import positions
from bertft.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

_IGNORED = -100


class TaggedSentence(Protocol):
    """Words and the tag of each."""

    @property
    def words(self) -> Sequence[str]:
        """The words in order."""

    @property
    def tags(self) -> Sequence[str]:
        """As many tags."""


@dataclass(frozen=True)
class Tagging:
    """A fine-tuned tagger and how it does on held-out sentences.

    Attributes:
        folder: where the model and its tokenizer lie.
        labels: the tags, in the order of the model's outputs.
        accuracy: share of the held-out words tagged right, in [0, 1].
        majority: what the commonest training tag alone would reach on them, in [0, 1].
        words: the number of held-out words that both shares are taken over.
        loss: mean training loss over all steps, in nats.
    """

    folder: Path
    labels: tuple[str, ...]
    accuracy: float
    majority: float
    words: int
    loss: float


def finetune_tagging(
    model: str | Path,
    sentences: Sequence[TaggedSentence],
    out: Path,
    *,
    dev: Sequence[TaggedSentence],
    lr: float,
    epochs: int = 3,
    batch_size: int = 32,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tagging:
    """Fine-tune all weights of a model to tag words; save model and tokenizer to `out`.

    A linear layer over the last hidden state of a word's first piece predicts its tag, and the
    other pieces carry no loss. AdamW, its rate falling linearly to zero. `out` appears when the
    training is done, and the caller's random states are as before.

    Args:
        model: folder or name of a model with a fast tokenizer.
        sentences: training sentences, objects with `words` and `tags`.
        out: the folder to make; it must not exist, or be empty.
        dev: held-out sentences, for the accuracy.
        lr: learning rate of the first step; 5e-5 suits most encoders, 5e-4 the miniature.
        epochs: passes over the training sentences.
        batch_size: sentences a step.
        seed: of the tagging layer, the order of sentences and dropout.
        device: "cpu", or "cuda" for the GPUs that the Trainer finds.
        progress: called with (steps done, steps in all) after every step.

    Raises:
        ValueError: a sentence that is empty, lacks tags or is too long, an `out` with files in it,
            a setting out of range, or a checkpoint that lacks weights of the encoder.
        RuntimeError: no GPU for "cuda".
    """
    from bertft.finetuning.training import random_states_kept

    out = Path(out)
    _check(out, epochs, lr, batch_size, seed, device)
    out.parent.mkdir(parents=True, exist_ok=True)
    labels = tuple(sorted({tag for sentence in (*sentences, *dev) for tag in sentence.tags}))
    beside = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    with quiet(), random_states_kept(device == "cpu"), beside as temporary:
        settings = _settings(temporary, epochs, lr, batch_size, seed, device)
        tagger, tokenizer = _load(str(model), labels)
        limit = min(positions(tagger) or tokenizer.model_max_length, tokenizer.model_max_length)
        rows = _labeled(tokenizer, limit, labels, sentences, "sentences")
        held_out = _labeled(tokenizer, limit, labels, dev, "dev")
        trainer = _trainer(tagger, tokenizer, settings, rows, progress)
        loss = trainer.train().training_loss
        predicted: Any = trainer.predict(held_out)  # type: ignore[arg-type]
        made = Path(temporary) / "tagger"
        tagger.save_pretrained(made)
        tokenizer.save_pretrained(made)
        if out.exists():
            out.rmdir()
        made.rename(out)
    scored = predicted.label_ids != _IGNORED
    truth, guesses = predicted.label_ids[scored], predicted.predictions.argmax(-1)[scored]
    commonest = Counter(label for row in rows for label in row["labels"] if label != _IGNORED)
    majority = float((truth == commonest.most_common(1)[0][0]).mean())
    return Tagging(out, labels, float((guesses == truth).mean()), majority, len(truth), loss)


def _check(out: Path, epochs: int, lr: float, batch_size: int, seed: int, device: str) -> None:
    import torch

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"[finetune_tagging] out must be a new or an empty folder, got {str(out)!r} with "
            "something in it; pass another one."
        )
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(
                f"[finetune_tagging] {name} must be at least 1, got {value}; pass a larger one."
            )
    if not lr > 0:
        raise ValueError(
            f"[finetune_tagging] lr must be positive, got {lr}; 5e-5 suits most encoders."
        )
    if not 0 <= seed < 2**32:
        raise ValueError(
            f"[finetune_tagging] seed must be in [0, 2**32), got {seed}; pass another one."
        )
    if device not in ("cpu", "cuda"):
        raise ValueError(
            f"[finetune_tagging] device must be 'cpu' or 'cuda', got {device!r}; pass one of them."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "[finetune_tagging] device must be one that torch finds, got 'cuda' without a GPU; "
            "pass device='cpu', or install torch for CUDA."
        )


def _settings(
    folder: str, epochs: int, lr: float, batch_size: int, seed: int, device: str
) -> "TrainingArguments":
    from transformers import TrainingArguments, set_seed

    # The Trainer sets it too, but later than the tagging layer is drawn.
    set_seed(seed)
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        learning_rate=lr,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        seed=seed,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _load(
    model: str, labels: tuple[str, ...]
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tagger, loading = AutoModelForTokenClassification.from_pretrained(
        model,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    encoder = f"{tagger.base_model_prefix}."
    missing = sorted(key for key in loading["missing_keys"] if key.startswith(encoder))
    if missing:
        raise ValueError(
            f"[finetune_tagging] model must hold every weight of its encoder, got {model!r} "
            f"without {missing[0]!r}; it was saved in part."
        )
    return tagger, AutoTokenizer.from_pretrained(model)


def _labeled(
    tokenizer: "PreTrainedTokenizerBase",
    limit: int,
    labels: tuple[str, ...],
    sentences: Sequence[TaggedSentence],
    name: str,
) -> list[dict[str, list[int]]]:
    """Token ids and labels of sentences: a word's label stands on its first piece."""
    if not sentences:
        raise ValueError(
            f"[finetune_tagging] {name} must hold a sentence or more, got none; pass some."
        )
    rows = []
    for number, sentence in enumerate(sentences):
        words, tags = sentence.words, sentence.tags
        text = Text.of_words(words)
        pieces = tokenizer(text.text, return_offsets_mapping=True)
        first = _first_pieces(word_of_piece(text, pieces["offset_mapping"]))
        if len(tags) != len(words) or len(first) != len(words) or not words:
            raise ValueError(
                f"[finetune_tagging] {name}[{number}] must have one tag for each word, and words "
                f"that the tokenizer keeps, got {len(words)} words, {len(first)} of them kept, "
                f"and {len(tags)} tags; drop or repair it."
            )
        if len(pieces["input_ids"]) > limit:
            raise ValueError(
                f"[finetune_tagging] {name}[{number}] must have at most {limit} pieces, got "
                f"{len(pieces['input_ids'])}; split it."
            )
        targets = [_IGNORED] * len(pieces["input_ids"])
        for position, tag in zip(first, tags, strict=True):
            targets[position] = labels.index(tag)
        rows.append({"input_ids": pieces["input_ids"], "labels": targets})
    return rows


def _first_pieces(words: Sequence[int]) -> list[int]:
    """Positions of the first pieces of words, of the word of each piece."""
    first: dict[int, int] = {}
    for position, word in enumerate(words):
        first.setdefault(word, position)
    first.pop(NO_WORD, None)
    return list(first.values())


def _trainer(
    tagger: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    settings: "TrainingArguments",
    rows: list[dict[str, list[int]]],
    progress: Callable[[int, int], None] | None,
) -> "Trainer":
    from transformers import (
        DataCollatorForTokenClassification,
        PrinterCallback,
        Trainer,
        TrainerCallback,
    )

    class Progress(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, state.max_steps)

    trainer = Trainer(
        tagger,
        settings,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        train_dataset=rows,
        callbacks=[Progress()],
    )
    # Without bars the Trainer prints its summary.
    trainer.remove_callback(PrinterCallback)
    return trainer
