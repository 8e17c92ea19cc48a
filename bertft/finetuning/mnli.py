"""Natural language inference: does the premise entail the hypothesis, contradict it, or neither?

Accuracy, in percent; matched and mismatched are two dev sets.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bertft.corpora.nli import LABELS, read_pairs
from bertft.finetuning.examples import Examples
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import Features, Predict, Scores, Task, Tokens, pad_inputs


class InferencePairs(Task):
    """MNLI with transformers' sequence classification head."""

    name = "mnli"
    recipe = Recipe(epochs=3, lr=2e-5, batch_size=32, max_length=128)
    measures = ("accuracy",)

    def read(self, path: str, *, skip_bad: bool) -> Examples:
        """Read pairs; those without a majority label are left out and counted."""
        found = read_pairs(path)
        return Examples(found.pairs, path, {"pairs without a label": found.unlabeled})

    def labels(self, train: Examples) -> tuple[str, ...]:
        """Entailment, neutral and contradiction, as GLUE numbers them."""
        return LABELS

    def head(self) -> Callable[..., Any]:
        """Return what makes a model of a configuration."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_config

    def features(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str]
    ) -> list[Features]:
        """One input a pair; the longer of the two texts is cut first."""
        tokens.require_room(pair=True)
        encoded = tokens.tokenizer(
            [tokens.first_of_pair(pair.premise) for pair in items],
            [pair.hypothesis for pair in items],
            truncation="longest_first",
            max_length=tokens.recipe.max_length,
            return_attention_mask=False,
        )
        number = {label: i for i, label in enumerate(labels)}
        return [
            {key: values[i] for key, values in encoded.items()}
            | {"labels": number[pair.label], "cut": bool(encoded.encodings[i].overflowing)}
            for i, pair in enumerate(items)
        ]

    def collate(self, rows: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
        """Token ids, mask, token types and labels."""
        return pad_inputs(rows, pad_id) | {"labels": torch.tensor([row["labels"] for row in rows])}

    def score(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str], predict: Predict
    ) -> Scores:
        """Share of pairs whose likeliest label is the right one."""
        rows = self.features(tokens, items, labels)
        guesses = [""] * len(items)
        for numbers, output in predict(rows):
            for i, guess in zip(numbers, output.logits.argmax(dim=-1).tolist(), strict=True):
                guesses[i] = labels[guess]
        right = sum(guess == pair.label for guess, pair in zip(guesses, items, strict=True))
        predictions = [
            {"line": pair.line, "label": guess} for pair, guess in zip(items, guesses, strict=True)
        ]
        cut = sum(row["cut"] for row in rows)
        notes = [f"{cut} pairs are cut to {tokens.recipe.max_length} tokens"] if cut else []
        return Scores({"accuracy": 100 * right / len(items)}, len(items), notes, predictions)
