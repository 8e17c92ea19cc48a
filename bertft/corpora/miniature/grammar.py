"""A small generative English grammar: tagged sentences, their trees and entities, in two domains.

Owns what a sentence is and which register speaks of which domain. Productions are in `productions`
and `registers`, words and their inflection in `lexicon`; turning sentences into pieces is left to
`pretraining`.
"""

import random
from dataclasses import dataclass

from bertft.corpora.miniature.lexicon import (
    CLOSED,
    CONTROLS,
    HARBOR,
    KITCHEN,
    Lexicon,
    conjugate,
    pluralize,
)
from bertft.corpora.miniature.phrases import Entity, Phrase
from bertft.corpora.miniature.registers import Log, Narrative


@dataclass(frozen=True)
class Sentence:
    """A tokenized sentence, the universal part-of-speech tag (UPOS) of each word, and entities.

    Attributes:
        words: the words and punctuation marks, cased as written.
        tags: one UPOS name for each word.
        entities: first word, the one after the last, and kind ("person", "place", "time", ...) of
            each phrase that names one, in order. A noun comes with what stands before it and with
            its name or number (`the old cook`, `pier 3`), and without what follows (`that burned`).
        heads: the number of each word's head, counted from 1; 0 for the root.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    entities: tuple[Entity, ...] = ()
    heads: tuple[int, ...] = ()


_REGISTERS: dict[str, tuple[type[Narrative] | type[Log], Lexicon]] = {
    "kitchen": (Narrative, KITCHEN),
    "harbor": (Log, HARBOR),
}
DOMAINS = tuple(_REGISTERS)


def paradigms() -> list[tuple[str, ...]]:
    """Return the lower-case word forms of the grammar, one tuple for each lexeme, sorted.

    A word form that is a noun and a verb occurs in two paradigms. Numerals in digits and
    punctuation are left out.
    """
    every: set[tuple[str, ...]] = {(word,) for word in CLOSED}
    for _, lexicon in _REGISTERS.values():
        every |= {(noun, pluralize(noun)) for noun in lexicon.nouns}
        verbs = {verb for frame in lexicon.frames for verb in frame.verbs}
        for verb in verbs.union(lexicon.reports, CONTROLS):
            every.add(tuple(dict.fromkeys(conjugate(verb).values())))
        single = lexicon.names + lexicon.mass + lexicon.traits + lexicon.qualities
        every |= {(word.lower(),) for word in single + lexicon.manners + lexicon.particles}
    return sorted(every)


def sentences(domain: str, n: int, seed: int) -> list[Sentence]:
    """Return the first `n` sentences of a domain's endless stream.

    The same arguments give the same sentences on every platform, and a larger `n` only appends.
    Many word forms have several tags (`salt`, `watch`, `light`, `that`, `had`, `before`), so
    tagging needs the context.

    Args:
        domain: one of `DOMAINS`; "kitchen" tells stories, "harbor" keeps a log.
        n: how many sentences, at least 1.
        seed: which stream, at least 0; use different ones to train and to test.

    Raises:
        ValueError: an unknown domain, or `n` or `seed` too small.

    >>> sentences("harbor", 1, seed=3)[0].words
    ('Pilots', 'anchor', 'open', 'ship', 'Marlin', '.')
    >>> sentences("harbor", 1, seed=3)[0].tags
    ('NOUN', 'VERB', 'ADJ', 'NOUN', 'PROPN', 'PUNCT')
    >>> sentences("harbor", 1, seed=3)[0].entities
    ((0, 1, 'person'), (2, 5, 'craft'))
    >>> sentences("harbor", 1, seed=3)[0].heads
    (2, 0, 4, 2, 4, 2)
    """
    if domain not in DOMAINS:
        known = " or ".join(repr(name) for name in DOMAINS)
        raise ValueError(f"[sentences] domain must be {known}, got {domain!r}; pass one of them.")
    if n < 1:
        raise ValueError(f"[sentences] n must be at least 1, got {n}; ask for one or more.")
    if seed < 0:
        raise ValueError(f"[sentences] seed must be at least 0, got {seed}; pass another one.")
    register, lexicon = _REGISTERS[domain]
    speaker = register(lexicon, random.Random(seed))
    return [_sentence(speaker.sentence()) for _ in range(n)]


def _sentence(phrase: Phrase) -> Sentence:
    first, *others = (token.form for token in phrase.tokens)
    tags = tuple(token.tag for token in phrase.tokens)
    heads = tuple(0 if i == head else head + 1 for i, head in enumerate(phrase.heads))
    return Sentence((first[0].upper() + first[1:], *others), tags, phrase.entities, heads)
