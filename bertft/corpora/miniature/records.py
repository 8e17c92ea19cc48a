"""Sentences of the miniature as records and trees for probes, true by construction."""

from collections.abc import Iterable

from bertft.corpora.conllu import Tree
from bertft.corpora.edges import Record, Target, tagged
from bertft.corpora.miniature.grammar import Sentence


def tag_records(sentences: Iterable[Sentence]) -> list[Record]:
    """Return a target for each word: the word alone, and its part of speech."""
    return [tagged(sentence.words, sentence.tags) for sentence in sentences]


def entity_records(sentences: Iterable[Sentence]) -> list[Record]:
    """Return a target for each entity: its words, and its kind; a sentence may have none."""
    return [
        Record(
            sentence.words,
            tuple(Target(((first, last),), (kind,)) for first, last, kind in sentence.entities),
        )
        for sentence in sentences
    ]


def dependency_trees(sentences: Iterable[Sentence]) -> list[Tree]:
    """Return the trees of sentences; relations are "root", "punct" and, for all others, "dep"."""
    return [
        Tree(
            sentence.words,
            sentence.tags,
            sentence.heads,
            tuple(
                "root" if head == 0 else "punct" if tag == "PUNCT" else "dep"
                for tag, head in zip(sentence.tags, sentence.heads, strict=True)
            ),
            "",
            number,
        )
        for number, sentence in enumerate(sentences, start=1)
    ]
