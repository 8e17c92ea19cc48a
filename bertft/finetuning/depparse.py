"""Dependency parsing with a biaffine head, scored as in the CoNLL 2018 shared task.

UAS: share of words with the right head; LAS: with the right head and label, labels without
subtypes. Punctuation counts, save in the measures named `no_punct`, and words are pooled over all
sentences (micro-average).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from bertft.corpora.conllu import Tree, read_trees, universal
from bertft.finetuning.examples import Examples
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import (
    NO_WORD,
    UNSCORED,
    Features,
    Predict,
    Scores,
    Task,
    Tokens,
    notes_on_words,
    pad,
    pad_inputs,
    word_features,
)
from bertft.traces import inference

if TYPE_CHECKING:
    from bertft.finetuning.biaffine import BiaffineParser


class DependencyParsing(Task):
    """Dependency parsing over a treebank."""

    name = "depparse"
    recipe = Recipe(epochs=10, lr=5e-5, head_lr=1e-3, batch_size=32, max_length=512)
    measures = ("las", "uas", "las_no_punct", "uas_no_punct")

    def read(self, path: str, *, skip_bad: bool) -> Examples:
        """Read the trees of a CoNLL-U file."""
        return Examples(read_trees(path), path)

    def labels(self, train: Examples) -> tuple[str, ...]:
        """The universal relations of the training trees, in the order of the alphabet."""
        return tuple(sorted({universal(label) for tree in train.items for label in tree.labels}))

    def head(self) -> Callable[..., Any]:
        """Return what makes a parser of a configuration."""
        from bertft.finetuning.biaffine import BiaffineParser

        return BiaffineParser

    def features(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str]
    ) -> list[Features]:
        """One input a sentence. A label that the label set lacks stays out of the loss."""
        number = {label: i for i, label in enumerate(labels)}
        rows = word_features(tokens, [tree.words for tree in items])
        for row, tree in zip(rows, items, strict=True):
            row["heads"] = tree.heads
            row["labels"] = [number.get(universal(label), UNSCORED) for label in tree.labels]
        return rows

    def collate(self, rows: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
        """Token ids and mask, the word of every piece, heads and labels."""
        inputs = pad_inputs(rows, pad_id)
        inputs.pop("token_type_ids", None)
        return inputs | {
            "word_of_piece": pad(rows, "words", NO_WORD, inputs["input_ids"].shape[1]),
            "lengths": torch.tensor([len(row["heads"]) for row in rows]),
            "heads": pad(rows, "heads", UNSCORED),
            "labels": pad(rows, "labels", UNSCORED),
        }

    def score(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str], predict: Predict
    ) -> Scores:
        """Decode a tree for every sentence and score it against the treebank."""
        from bertft.ops.trees import decode

        rows = self.features(tokens, items, labels)
        parsed: list[tuple[list[int], list[str]]] = [([], [])] * len(items)
        for numbers, output in predict(rows):
            lengths = np.array([len(items[i].words) for i in numbers])
            heads = decode(output.arcs.float().cpu().numpy(), lengths)
            at = torch.from_numpy(heads).long().clamp(min=0).to(output.nodes.device)
            parser = cast("BiaffineParser", predict.model)
            with inference(parser):
                chosen = parser.label_scores(output.nodes.float(), at).argmax(dim=-1)
            for row, i in enumerate(numbers):
                n = lengths[row]
                names = [labels[label] for label in chosen[row, :n].tolist()]
                parsed[i] = (heads[row, :n].tolist(), names)
        values, n = attachment_scores(items, parsed)
        predictions = [
            {"id": tree.id, "line": tree.line, "heads": heads, "labels": names}
            for tree, (heads, names) in zip(items, parsed, strict=True)
        ]
        truth = [[universal(label) for label in tree.labels] for tree in items]
        return Scores(values, n, notes_on_words(truth, rows, labels), predictions)


def attachment_scores(
    trees: Sequence[Tree], parsed: Sequence[tuple[Sequence[int], Sequence[str]]]
) -> tuple[dict[str, float], int]:
    """Return LAS and UAS, with and without punctuation, in percent, and the number of words.

    Args:
        trees: the gold trees.
        parsed: heads and labels for each.

    Reference: Zeman et al. 2018, CoNLL 2018 shared task, 10.18653/v1/K18-2001.
    """
    arcs, both, punct = [], [], []
    for tree, (heads, labels) in zip(trees, parsed, strict=True):
        for gold, head, gold_label, label in zip(
            tree.heads, heads, map(universal, tree.labels), labels, strict=True
        ):
            arcs.append(gold == head)
            both.append(gold == head and gold_label == universal(label))
            punct.append(gold_label == "punct")
    words = ~np.array(punct)
    hits = {"las": np.array(both), "uas": np.array(arcs)}
    values = {name: 100 * float(hit.mean()) for name, hit in hits.items()}
    if words.any():
        values |= {f"{name}_no_punct": 100 * float(hit[words].mean()) for name, hit in hits.items()}
    return values, len(arcs)
