"""Part-of-speech tagging: the share of words whose tag (UPOS) is right, in percent.

A word is tagged by its first piece.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from bertft.corpora.conllu import read_trees, require_tags
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


class PartOfSpeechTagging(Task):
    """Tagging words of a treebank, with transformers' token classification head."""

    name = "tagging"
    recipe = Recipe(epochs=3, lr=5e-5, batch_size=32, max_length=512)
    measures = ("accuracy",)

    def read(self, path: str, *, skip_bad: bool) -> Examples:
        """Read the trees of a CoNLL-U file; every word must have a tag."""
        trees = read_trees(path)
        require_tags(trees)
        return Examples(trees, path)

    def labels(self, train: Examples) -> tuple[str, ...]:
        """The tags of the training sentences, in the order of the alphabet."""
        return tuple(sorted({tag for tree in train.items for tag in tree.tags}))

    def head(self) -> Callable[..., Any]:
        """Return what makes a model of a configuration."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_config

    def features(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str]
    ) -> list[Features]:
        """One input a sentence. A tag that the label set lacks stays out of the loss."""
        number = {label: i for i, label in enumerate(labels)}
        rows = word_features(tokens, [tree.words for tree in items])
        for row, tree in zip(rows, items, strict=True):
            row["labels"] = [UNSCORED] * len(row["input_ids"])
            for word, piece in first_pieces(row["words"]).items():
                row["labels"][piece] = number.get(tree.tags[word], UNSCORED)
        return rows

    def collate(self, rows: Sequence[Features], pad_id: int) -> dict[str, Tensor]:
        """Token ids, mask and labels."""
        return pad_inputs(rows, pad_id) | {"labels": pad(rows, "labels", UNSCORED)}

    def score(
        self, tokens: Tokens, items: Sequence[Any], labels: Sequence[str], predict: Predict
    ) -> Scores:
        """Share of words whose likeliest tag is the right one; a word without a piece has none."""
        rows = self.features(tokens, items, labels)
        tagged = [[""] * len(tree.words) for tree in items]
        for numbers, output in predict(rows):
            for i, guesses in zip(numbers, output.logits.argmax(dim=-1).tolist(), strict=True):
                for word, piece in first_pieces(rows[i]["words"]).items():
                    tagged[i][word] = labels[guesses[piece]]
        truth = [tree.tags for tree in items]
        hits = [
            tag == guess
            for tags, guesses in zip(truth, tagged, strict=True)
            for tag, guess in zip(tags, guesses, strict=True)
        ]
        predictions = [
            {"id": tree.id, "line": tree.line, "tags": guesses}
            for tree, guesses in zip(items, tagged, strict=True)
        ]
        values = {"accuracy": 100 * sum(hits) / len(hits)}
        return Scores(values, len(hits), notes_on_words(truth, rows, labels), predictions)


def first_pieces(words: Sequence[int]) -> dict[int, int]:
    """Position of the first piece of each word, of the word of each piece."""
    first: dict[int, int] = {}
    for position, word in enumerate(words):
        if word != NO_WORD:
            first.setdefault(word, position)
    return first
