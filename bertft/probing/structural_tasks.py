"""The task of structural probes: trees of a treebank, and which of their words are punctuation.

Pieces and rows are for `structural_parts`.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertft.corpora.conllu import Tree, check_tree, is_given, read_trees
from bertft.probing.tasks import PARTS, STRUCTURAL, check_limit, drawn, only_file

PUNCTUATION = "upos", "xpos"
# Penn Treebank tags that Hewitt & Manning leave out.
XPOS = frozenset(("''", ",", ".", ":", "``", "-LRB-", "-RRB-"))


@dataclass(frozen=True)
class StructuralTask:
    """Trees to train structural probes on, and trees to score them on.

    Attributes:
        train: training trees.
        dev: held-out trees.
        punctuation: words that edges and roots are not scored on: "upos" for those tagged PUNCT,
            "xpos" for those with a Penn Treebank tag of punctuation.
        fingerprint: hash of words, heads and punctuation.
        name: "structural".
    """

    train: tuple[Tree, ...]
    dev: tuple[Tree, ...]
    punctuation: str
    fingerprint: str
    name: str = STRUCTURAL

    @classmethod
    def read(
        cls,
        folder: str | os.PathLike[str],
        limit: int | None = None,
        punctuation: str = "upos",
    ) -> "StructuralTask":
        """Read the one `*train*.conllu` of a folder and its one `*dev*.conllu`.

        Args:
            folder: with the two files.
            limit: most training sentences; more are drawn from uniformly, by seed 0 and in their
                order. Held-out sentences are never cut.
            punctuation: the rule, "upos" or "xpos".

        Raises:
            FileNotFoundError: no such folder or file.
            ValueError: a sentence that is no tree with one root (with its line), a limit below 1,
                or what `of` refuses.
        """
        check_limit("StructuralTask", limit)
        where = Path(folder).expanduser()
        files = (
            only_file("StructuralTask", STRUCTURAL, where, f"*{part}*.conllu") for part in PARTS
        )
        train, dev = map(read_trees, files)
        return cls.of(drawn(train, limit), dev, punctuation)

    @classmethod
    def of(
        cls, train: Iterable[Tree], dev: Iterable[Tree], punctuation: str = "upos"
    ) -> "StructuralTask":
        """Return a task of trees.

        Raises:
            TypeError: a head that is no integer.
            ValueError: an unknown rule, no tree in a part, a sentence that is no tree with one root
                (with its place), or a word without the tag that the rule asks for.
        """
        if punctuation not in PUNCTUATION:
            raise ValueError(
                f"[StructuralTask] punctuation must be one of {', '.join(PUNCTUATION)}, got "
                f"{punctuation!r}; pass one."
            )
        parts = {"training": tuple(train), "dev": tuple(dev)}
        digest = hashlib.blake2b(digest_size=16)
        for part, trees in parts.items():
            if not trees:
                raise ValueError(
                    f"[StructuralTask] {part} trees must be at least one, got none; pass a "
                    "treebank."
                )
            for number, tree in enumerate(trees):
                where = tree.where if tree.source else f"{part} tree {number} (counted from 0)"
                check_tree(tree, where)
                heads = tuple(int(head) for head in tree.heads)
                own = (tree.words, heads, kept_words(tree, punctuation, where))
                digest.update(repr(own).encode("utf-8", "surrogatepass"))
            digest.update(b"\n")
        return cls(parts["training"], parts["dev"], punctuation, digest.hexdigest())

    def kept(self, tree: Tree) -> tuple[bool, ...]:
        """Return which words of a tree are no punctuation."""
        return kept_words(tree, self.punctuation)


def kept_words(tree: Tree, punctuation: str, where: str = "") -> tuple[bool, ...]:
    """Return which words of a tree are no punctuation.

    Args:
        tree: the sentence.
        punctuation: the rule.
        where: the sentence's place, for errors; by default its file and line.

    Raises:
        ValueError: a word without the tag that the rule asks for (with its place).
    """
    tags: Sequence[str] = tree.tags if punctuation == "upos" else tree.xpos
    tags = tags or ("_",) * len(tree.words)
    untagged = [word for word, tag in zip(tree.words, tags, strict=True) if not is_given(tag)]
    if untagged:
        raise ValueError(
            f"[StructuralTask] words must have a tag in the column {punctuation.upper()}, got none "
            f"for {untagged[0]!r} in the sentence at {where or tree.where}; fill it, or pass the "
            f"other rule for punctuation ({'xpos' if punctuation == 'upos' else 'upos'})."
        )
    if punctuation == "upos":
        return tuple(tag != "PUNCT" for tag in tags)
    return tuple(tag not in XPOS for tag in tags)
