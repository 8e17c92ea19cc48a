"""Sentences of the miniature as records for edge probes, whose labels are true by construction."""

from collections.abc import Iterable

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
