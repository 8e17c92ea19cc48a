"""A split of a treebank as structural probes learn from it: the rows of its words, and its trees.

Owns which sentences are left out. What probes are trained on it is for `structural_assignments`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bertft.corpora import Text
from bertft.corpora.conllu import Tree
from bertft.probing.structural import Gold
from bertft.probing.structural_scores import LONGEST, SHORTEST
from bertft.probing.structural_tasks import StructuralTask
from bertft.rows import Rows
from bertft.tokenizing import CUT_OFF, encode_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class StructuralPart:
    """A split of a treebank in the rows of one tokenizer.

    Attributes:
        rows: what to capture, a row for each word.
        gold: what the trees say.
        kept: `(S,)` numbers of the sentences that are left.
        words: `(N,)` of all sentences; 0 for those that are left out.
        cut: sentences left out because they are longer than the maximal length.
        dropped_words: sentences left out because the tokenizer has no piece for a word.
    """

    rows: Rows
    gold: Gold
    kept: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    cut: int
    dropped_words: int

    @classmethod
    def of(
        cls,
        task: StructuralTask,
        trees: Sequence[Tree],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
    ) -> "StructuralPart":
        """Find the pieces of all words, and leave out sentences that lack one.

        Raises:
            ValueError: no sentence is left.
        """
        from bertft.ops.trees import depths, distances

        texts = encode_words([Text.of_words(tree.words) for tree in trees], tokenizer, max_length)
        cut = [bool((text.stops == CUT_OFF).any()) for text in texts]
        whole = [bool((text.stops > text.starts).all()) for text in texts]
        kept = np.flatnonzero(whole)
        dropped = len(trees) - len(kept) - sum(cut)
        if not len(kept):
            raise ValueError(
                f"[structural] {trees[0].source or 'treebank'} must have a sentence that the "
                f"tokenizer keeps whole, got {len(trees)} of which {sum(cut)} are longer than "
                f"{max_length} positions and {dropped} have a word without a piece; pass other "
                "sentences."
            )
        own = [trees[s] for s in kept.tolist()]
        words = np.zeros(len(trees), np.int64)
        words[kept] = [len(tree.words) for tree in own]
        offsets = np.concatenate([[0], words[kept].cumsum()])
        heads = np.concatenate([tree.heads for tree in own])
        gold = Gold(
            torch.from_numpy(offsets),
            torch.from_numpy(distances(heads, offsets)),
            torch.from_numpy(depths(heads, offsets)).float(),
            torch.tensor([own for tree in own for own in task.kept(tree)]),
        )
        return cls(Rows([texts[s] for s in kept.tolist()]), gold, kept, words, sum(cut), dropped)

    @property
    def lacking(self) -> list[tuple[str, str]]:
        """Scores that no sentence counts for, and what such a sentence would have."""
        offsets, words = self.gold.offsets.numpy(), self.words[self.kept]
        scored = np.add.reduceat(self.gold.kept.numpy().astype(np.int64), offsets[:-1])
        needs = {
            "uuas": (scored > 1, "two words that are no punctuation"),
            "root_accuracy": (scored > 0, "a word that is no punctuation"),
            "dspr and nspr": (
                (words >= SHORTEST) & (words <= LONGEST),
                f"{SHORTEST} to {LONGEST} words",
            ),
        }
        return [(scores, what) for scores, (has, what) in needs.items() if not has.any()]
