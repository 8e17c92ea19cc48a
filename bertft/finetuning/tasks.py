"""What a fine-tuning task is, and what all tasks share: padding, and forward passes over examples.

Owns no task: each has a module of its own and is found here by name.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from bertft.corpora import Text
from bertft.finetuning.examples import Examples
from bertft.finetuning.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = {
    "depparse": "DependencyParsing",
    "mnli": "InferencePairs",
    "squad": "QuestionAnswering",
    "tagging": "PartOfSpeechTagging",
}
NO_WORD, UNSCORED = -1, -100
Features = dict[str, Any]
"""One input of the model: `input_ids` and whatever else its task wants, as lists and numbers."""


@dataclass(frozen=True)
class Scores:
    """Scores of a model on a dev set, in percent; `n` is the number of things scored.

    Attributes:
        values: by measure, the headline first.
        n: words, pairs or questions.
        notes: what a reader of the scores should know.
        predictions: one line of JSON's types for each example.
    """

    values: Mapping[str, float]
    n: int
    notes: Sequence[str] = ()
    predictions: Sequence[Any] = ()


@dataclass(frozen=True)
class Tokens:
    """A tokenizer and how many tokens an input may have."""

    tokenizer: "PreTrainedTokenizerBase"
    recipe: Recipe

    @property
    def pad_id(self) -> int:
        """Token id for positions that the mask hides: the end of a text where there is no other."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return int(next(token for token in known if token is not None))

    def first_of_pair(self, text: str) -> str:
        """The first text of a pair, with a line end where the tokenizer has no separator."""
        return text if self.tokenizer.num_special_tokens_to_add(pair=True) else f"{text}\n"

    def require_room(self, *, pair: bool) -> int:
        """Return the tokens left beside the special ones.

        Raises:
            ValueError: not even one for each text.
        """
        room = self.recipe.max_length - self.tokenizer.num_special_tokens_to_add(pair=pair)
        if room < 1 + pair:
            raise ValueError(
                f"[finetune] max_length must leave room for text beside special tokens, got "
                f"{self.recipe.max_length}, which leaves {max(room, 0)}; pass more."
            )
        return room


class Task(ABC):
    """A task: its files, its head, how examples become inputs, and how predictions are scored."""

    name: ClassVar[str]
    recipe: ClassVar[Recipe]
    measures: ClassVar[tuple[str, ...]]

    @abstractmethod
    def read(self, path: str, *, skip_bad: bool) -> Examples:
        """Read a training or dev file."""

    @abstractmethod
    def labels(self, train: Examples) -> tuple[str, ...]:
        """The label set that the head is made for; empty where there is none."""

    @abstractmethod
    def head(self) -> Callable[..., Any]:
        """What makes a model with the task's head of an encoder's configuration."""

    @abstractmethod
    def features(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str]
    ) -> list[Features]:
        """Inputs for training; an example may have none or several."""

    def loss(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, in nats: a mean."""
        loss: Tensor = model(**batch).loss
        return loss

    @abstractmethod
    def collate(self, rows: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
        """A batch that the model takes."""

    @abstractmethod
    def score(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str], predict: "Predict"
    ) -> Scores:
        """Score a model on examples."""


def task_of(name: str) -> Task:
    """Return a task by name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(
            f"[finetune] task must be one of {', '.join(TASKS)}, got {name!r}; pass one."
        )
    task: Task = getattr(import_module(f"bertft.finetuning.{name}"), TASKS[name])()
    return task


def pad(rows: Sequence[Features], key: str, fill: int, width: int | None = None) -> Tensor:
    """Return lists of integers as a matrix, padded on the right."""
    width = width or max(len(row[key]) for row in rows)
    out = torch.full((len(rows), width), fill, dtype=torch.long)
    for line, row in zip(out, rows, strict=True):
        line[: len(row[key])] = torch.as_tensor(row[key])
    return out


def pad_inputs(rows: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
    """Return token ids with their mask, and token types where the rows have them."""
    inputs = {"input_ids": pad(rows, "input_ids", pad_id)}
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    inputs["attention_mask"] = (
        torch.arange(inputs["input_ids"].shape[1]) < lengths[:, None]
    ).long()
    if "token_type_ids" in rows[0]:
        inputs["token_type_ids"] = pad(rows, "token_type_ids", 0)
    return inputs


def by_length(rows: Sequence[Features], batch_size: int) -> list[list[int]]:
    """Numbers of the rows in batches of similar length, the longest first."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Return the context in which a run's forward passes happen."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def word_of_piece(text: Text, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Number of the word that each piece belongs to, -1 for special tokens."""
    # Some tokenizers count the space before a word to its first piece, so the last character tells.
    word_at = {at: n for n, (start, stop) in enumerate(text.words) for at in range(start, stop)}
    return [word_at.get(stop - 1, NO_WORD) if stop > start else NO_WORD for start, stop in offsets]


def word_features(tokens: Tokens, sentences: Sequence[Sequence[str]]) -> list[Features]:
    """Return `input_ids`, the word of each piece (`words`) and whether an input was `cut`."""
    tokens.require_room(pair=False)
    texts = [Text.of_words(words) for words in sentences]
    encoded = tokens.tokenizer(
        [text.text for text in texts],
        truncation=True,
        max_length=tokens.recipe.max_length,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    return [
        {
            "input_ids": encoded["input_ids"][i],
            "words": word_of_piece(text, encoded["offset_mapping"][i]),
            "cut": bool(encoded.encodings[i].overflowing),
        }
        for i, text in enumerate(texts)
    ]


def notes_on_words(
    truth: Sequence[Sequence[str]], rows: Sequence[Features], labels: Sequence[str]
) -> list[str]:
    """What to know of scores over words: labels that the head lacks, and words it does not see."""
    unknown = Counter(label for of in truth for label in of if label not in labels)
    bare = sum(
        len(of) - len({*row["words"]} - {NO_WORD}) for of, row in zip(truth, rows, strict=True)
    )
    notes = []
    if unknown:
        told = ", ".join(f"{label} ({count})" for label, count in unknown.most_common())
        notes.append(
            f"{unknown.total()} words have labels that the training trees lack and count as "
            f"wrong: {told}"
        )
    if bare:
        notes.append(f"{bare} words have no piece (cut off, or unknown to the tokenizer)")
    return notes


class Predict:
    """Runs a model over inputs, in batches of similar length and without gradients.

    Args:
        model: with the task's head, in eval mode while it runs.
        collate: makes batches.
        tokens: padding, batch size and dtype.
        follow: told the numbers of inputs done and in all.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        collate: Callable[[Sequence[Features], int], dict[str, Tensor]],
        tokens: Tokens,
        follow: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.model = model
        self._collate = collate
        self._tokens = tokens
        self._follow = follow

    def __call__(self, rows: Sequence[Features]) -> Iterator[tuple[list[int], Any]]:
        """Yield the numbers of the rows of each batch, and the model's output for them.

        Raises:
            RuntimeError: a score that is NaN.
        """
        from bertft.traces import inference

        device, done = self.model.device, 0
        for numbers in by_length(rows, self._tokens.recipe.batch_size):
            batch = self._collate([rows[i] for i in numbers], self._tokens.pad_id)
            with inference(self.model), autocast(device, self._tokens.recipe.dtype):
                output = self.model(**{key: value.to(device) for key, value in batch.items()})
            # The loss is over what training has labels for: over nothing it is NaN.
            if any(value.isnan().any() for key, value in output.items() if key != "loss"):
                raise RuntimeError(
                    "[finetune] scores must be numbers, got NaN; the training diverged: lower the "
                    "learning rate."
                )
            yield numbers, output
            done += len(numbers)
            self._follow(done, len(rows))
