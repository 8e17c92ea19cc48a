"""Fine-tuning for part-of-speech tagging, or any task with one label for each word.

Owns how words become labeled pieces and how the tagger is trained and scored. What the training
did to the representations is for the comparison of the two folders to say.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bertft.corpora import Text
from bertft.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

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
    epochs: int = 3,
    lr: float = 5e-5,
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
        model: folder or name of a model with a fast tokenizer; the miniature needs a higher `lr`.
        sentences: training sentences, objects with `words` and `tags`.
        out: the folder to make; it must not exist, or be empty.
        dev: held-out sentences, for the accuracy.
        epochs: passes over the training sentences.
        lr: learning rate of the first step.
        batch_size: sentences a step.
        seed: of the tagging layer, the order of sentences and dropout.
        device: "cpu", or "cuda" for the GPUs that the Trainer finds.
        progress: called with (steps done, steps in all) after every step.

    Raises:
        ValueError: a sentence that is empty, lacks tags or is too long, an `out` with files in it,
            a setting out of range, or a checkpoint that lacks weights of the encoder.
        RuntimeError: no GPU for "cuda".
    """
    out = Path(out)
    _check(out, sentences, dev, epochs, lr, batch_size, seed, device)
    out.parent.mkdir(parents=True, exist_ok=True)
    labels = tuple(sorted({tag for sentence in (*sentences, *dev) for tag in sentence.tags}))
    beside = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    with quiet(), _random_states_kept(device), beside as temporary:
        tagger, tokenizer = _load(str(model), labels, seed)
        encode = _Encoder(tokenizer, labels, _limit(tagger, tokenizer))
        rows, held_out = encode(sentences, "sentences"), encode(dev, "dev")
        settings = {"num_train_epochs": epochs, "learning_rate": lr, "seed": seed}
        sizes = dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), batch_size)
        settings |= {"output_dir": temporary, "use_cpu": device == "cpu", **sizes}
        trainer = _trainer(tagger, tokenizer, rows, settings, progress)
        loss = trainer.train().training_loss
        predicted = trainer.predict(held_out)
        made = Path(temporary) / "tagger"
        tagger.save_pretrained(made)
        tokenizer.save_pretrained(made)
        if out.exists():
            out.rmdir()
        made.rename(out)
    commonest = Counter(tag for sentence in sentences for tag in sentence.tags).most_common(1)[0][0]
    truth = predicted.label_ids
    scored = truth != _IGNORED
    right = predicted.predictions.argmax(-1) == truth
    majority = float((truth[scored] == labels.index(commonest)).mean())
    return Tagging(out, labels, float(right[scored].mean()), majority, int(scored.sum()), loss)
