"""A small generative English grammar: tagged sentences, their trees and entities, in two domains.

Owns the two registers and the productions that build sentences from them. A production returns a
`_Phrase`, which knows its entities, its head and what depends on what; agreement follows the head.
Words and their
inflection are in `lexicon`; turning sentences into pieces is left to `pretraining`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from bertft.corpora.miniature.lexicon import (
    ADPOSITIONS,
    BEARINGS,
    CLOSED,
    CONJUNCTIONS,
    CONTROLS,
    CRAFT,
    DETERMINERS,
    HARBOR,
    KITCHEN,
    NUMBERS,
    OBJECTS,
    POSSESSIVES,
    SUBJECTS,
    TIMES,
    WEATHER,
    Frame,
    Lexicon,
    conjugate,
    pluralize,
)

_Option = TypeVar("_Option")
Entity = tuple[int, int, str]


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


@dataclass(frozen=True, eq=False)
class _Token:
    form: str
    tag: str


@dataclass(frozen=True, eq=False)
class _Phrase:
    """A constituent.

    Attributes:
        tokens: in surface order.
        heads: the place of each token's head, that of the constituent's own head for itself.
        plural: what agrees with it has the form of the plural.
        entities: within its tokens.
    """

    tokens: tuple[_Token, ...]
    heads: tuple[int, ...] = (0,)
    plural: bool = False
    entities: tuple[Entity, ...] = ()

    @property
    def root(self) -> int:
        """The place of the token that heads it."""
        return next(i for i, head in enumerate(self.heads) if i == head)


def _leaf(form: str, tag: str, plural: bool = False) -> _Phrase:
    return _Phrase((_Token(form, tag),), plural=plural)


def _verb(verb: str, form: str) -> _Phrase:
    return _leaf(conjugate(verb)[form], "VERB")


def _join(head: _Phrase, *parts: _Phrase) -> _Phrase:
    """The constituent of `parts` in surface order; the others depend on `head`, one of them."""
    tokens: list[_Token] = []
    heads: list[int] = []
    entities: list[Entity] = []
    before = sum(len(part.tokens) for part in parts[: parts.index(head)])
    for part in parts:
        n = len(tokens)
        entities += ((first + n, last + n, kind) for first, last, kind in part.entities)
        heads += (
            before + head.root if i == place and part is not head else place + n
            for i, place in enumerate(part.heads)
        )
        tokens += part.tokens
    return _Phrase(tuple(tokens), tuple(heads), head.plural, tuple(entities))


def _marked(mark: _Phrase, phrase: _Phrase) -> _Phrase:
    """A constituent after a word that depends on its head: `by her`, `that she salted`."""
    return _join(phrase, mark, phrase)


def _entity(kind: str, phrase: _Phrase) -> _Phrase:
    """The same constituent, which is an entity as a whole."""
    return replace(phrase, entities=((0, len(phrase.tokens), kind),))


class _Register:
    """The productions that both registers share; all choices come from one random stream."""

    # Auxiliaries and verb form, for a singular and for a plural subject.
    groups: tuple[tuple[tuple[str, str], tuple[str, str]], ...]
    copula: tuple[str, str]
    possession: tuple[str, str]
    # How often a determiner stands before a singular and before a plural noun.
    articles: tuple[float, float]
    pronouns: float

    def __init__(self, lexicon: Lexicon, rng: random.Random) -> None:
        self.lexicon = lexicon
        self.rng = rng

    def maybe(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, options: Sequence[_Option]) -> _Option:
        """One of `options`; the first k of n share a probability of sqrt(k / n)."""
        chance = self.rng.random()
        return options[int(chance * chance * len(options))]

    def word(self, forms: Sequence[str], tag: str) -> _Phrase:
        return _leaf(self.pick(forms), tag)

    def noun_phrase(self, nouns: Sequence[str], depth: int) -> _Phrase:
        if depth < 2 and self.maybe(0.08):
            first, last = self.noun_phrase(nouns, 2), self.noun_phrase(nouns, 2)
            both = _join(first, first, _marked(_leaf("and", "CCONJ"), last))
            return replace(both, plural=True)
        if nouns is not self.lexicon.people and self.maybe(0.12):
            return self.substance()
        noun = self.pick(nouns)
        nominal = self.nominal(noun, self.maybe(0.4))
        if self.maybe(self.articles[nominal.plural]):
            nominal = _join(nominal, self.determiner(nominal.plural), nominal)
        elif nominal.plural and self.maybe(0.4):
            nominal = _join(nominal, self.word(NUMBERS, "NUM"), nominal)
        nominal = _entity(self.lexicon.kind(noun, nouns), nominal)
        if depth < 2 and self.maybe(0.25):
            nominal = _join(nominal, nominal, self.postmodifier(noun, nominal.plural, depth + 1))
        return nominal

    def substance(self) -> _Phrase:
        return _entity("substance", self.word(self.lexicon.mass, "NOUN"))

    def nominal(self, noun: str, plural: bool) -> _Phrase:
        head = _leaf(pluralize(noun) if plural else noun, "NOUN", plural)
        before = []
        person = noun in self.lexicon.people
        if self.maybe(0.2):
            before.append(
                self.word(self.lexicon.traits if person else self.lexicon.qualities, "ADJ")
            )
        fates = [frame for frame in self.lexicon.transitive if noun in frame.patients]
        if fates and self.maybe(0.15):
            verb = self.pick(self.pick(fates).verbs)
            before.append(_leaf(conjugate(verb)["participle"], "ADJ"))
        if not person and self.maybe(0.2):
            modifiers = self.lexicon.mass if self.maybe(0.4) else self.lexicon.nouns
            before.append(self.word(modifiers, "NOUN"))
        return _join(head, *before, head)

    def determiner(self, plural: bool) -> _Phrase:
        if self.maybe(0.15):
            return self.word(POSSESSIVES, "PRON")
        return self.word(DETERMINERS[plural], "DET")

    def postmodifier(self, noun: str, plural: bool, depth: int) -> _Phrase:
        """What follows a noun: `that burned`, `that she salted`, `salted by her`, `of rice`."""
        deeds = [frame for frame in self.lexicon.frames if noun in frame.agents]
        fates = [frame for frame in self.lexicon.transitive if noun in frame.patients]
        choice = self.rng.random()
        if deeds and choice < 0.25:
            clause = self.predicate(self.pick(deeds), plural, depth)
            return _join(clause, self.word(("that", "that", "which"), "PRON"), clause)
        if fates and choice < 0.7:
            frame = self.pick(fates)
            verb = self.pick(frame.verbs)
            if choice < 0.45:
                agent, participle = self.subject(frame.agents, 2), _verb(verb, "participle")
                by = _marked(_leaf("by", "ADP"), self.object(frame.agents, 2))
                return _join(participle, participle, by)
            agent = self.subject(frame.agents, 2)
            gapped = self.group(verb, agent.plural)
            return _join(gapped, _leaf("that", "PRON"), agent, gapped)
        if choice < 0.8:
            stuff = self.substance()
            return _join(stuff, _leaf("of", "ADP"), stuff)
        return self.adjunct(depth)

    def adjunct(self, depth: int) -> _Phrase:
        if self.maybe(0.25):
            time = _entity("time", self.word(TIMES, "NOUN"))
            return _join(time, self.word(("before", "after", "until", "at"), "ADP"), time)
        place = self.noun_phrase(self.lexicon.places, max(depth, 1))
        return _join(place, self.word(ADPOSITIONS, "ADP"), place)

    def subject(self, nouns: Sequence[str], depth: int) -> _Phrase:
        if nouns is self.lexicon.people and self.maybe(self.pronouns):
            form, plural = self.pick(SUBJECTS)
            return _leaf(form, "PRON", plural)
        return self.noun_phrase(nouns, depth)

    def object(self, nouns: Sequence[str], depth: int) -> _Phrase:
        if self.maybe(self.pronouns):
            return self.word(OBJECTS, "PRON")
        return self.noun_phrase(nouns, depth)

    def group(self, verb: str, plural: bool) -> _Phrase:
        """A verb after its auxiliaries, negation and adverb."""
        auxiliaries, form = self.pick(self.groups)[plural]
        before = [_leaf(word, "AUX") for word in auxiliaries.split()]
        if auxiliaries == "did" or (auxiliaries and self.maybe(0.1)):
            before.append(_leaf("not", "PART"))
        if self.maybe(0.08):
            before.append(self.word(self.lexicon.manners, "ADV"))
        head = _verb(verb, form)
        return _join(head, *before, head)

    def complemented(self, verb: _Phrase, frame: Frame, depth: int) -> _Phrase:
        """A verb before its object, particle and adjunct."""
        after = [self.object(frame.patients, depth + 1)] if frame.patients else []
        if self.maybe(0.15):
            after.append(self.word(self.lexicon.particles, "ADV"))
        if self.maybe(0.25):
            after.append(self.adjunct(depth + 1))
        elif self.maybe(0.25):
            after.append(self.word(self.lexicon.manners, "ADV"))
        return _join(verb, verb, *after)

    def predicate(self, frame: Frame, plural: bool, depth: int) -> _Phrase:
        person = frame.agents is self.lexicon.people
        choice = self.rng.random()
        if choice < 0.12:
            return self.described(person, plural)
        if person and choice < 0.2:
            control, verb = (
                self.group(self.pick(CONTROLS), plural),
                self.pick(frame.verbs),
            )
            rest = self.complemented(_verb(verb, "base"), frame, depth)
            return _join(control, control, _marked(_leaf("to", "PART"), rest))
        if person and choice < 0.27:
            have = _leaf(self.possession[plural], "VERB")
            return _join(have, have, self.object(frame.patients or self.lexicon.nouns, depth + 1))
        if person and choice < 0.42 and depth < 2:
            report = self.group(self.pick(self.lexicon.reports), plural)
            is_marked = self.maybe(0.75)
            clause = self.clause(depth + 1)
            if is_marked:
                clause = _marked(_leaf("that", "SCONJ"), clause)
            return _join(report, report, clause)
        return self.complemented(self.group(self.pick(frame.verbs), plural), frame, depth)

    def described(self, person: bool, plural: bool) -> _Phrase:
        lexicon = self.lexicon
        quality = self.word(lexicon.traits if person else lexicon.qualities, "ADJ")
        degree = [self.word(("very", "too"), "ADV")] if self.maybe(0.3) else []
        return _join(quality, _leaf(self.copula[plural], "AUX"), *degree, quality)

    def clause(self, depth: int) -> _Phrase:
        frame = self.pick(self.lexicon.frames)
        if frame.patients and self.maybe(0.15):
            return self.passive(frame, depth)
        subject = self.subject(frame.agents, depth)
        predicate = self.predicate(frame, subject.plural, depth)
        return _join(predicate, subject, predicate)

    def passive(self, frame: Frame, depth: int) -> _Phrase:
        subject, verb = self.noun_phrase(frame.patients, depth), self.pick(frame.verbs)
        participle = _verb(verb, "participle")
        parts = [subject, _leaf(self.copula[subject.plural], "AUX"), participle]
        if self.maybe(0.5):
            parts.append(_marked(_leaf("by", "ADP"), self.noun_phrase(frame.agents, depth + 1)))
        return _join(participle, *parts)


class _Narrative(_Register):
    """Sentences of a story: the past tense, pronouns, names of people, subordinate clauses."""

    groups = (
        *[(("", "past"), ("", "past"))] * 5,
        (("had", "participle"), ("had", "participle")),
        (("was", "gerund"), ("were", "gerund")),
        (("would", "base"), ("would", "base")),
        (("could", "base"), ("could", "base")),
        (("did", "base"), ("did", "base")),
    )
    copula = ("was", "were")
    possession = ("had", "had")
    articles = (1.0, 0.6)
    pronouns = 0.2

    def noun_phrase(self, nouns: Sequence[str], depth: int) -> _Phrase:
        if nouns is self.lexicon.people and self.maybe(0.3):
            return _entity("person", self.word(self.lexicon.names, "PROPN"))
        return super().noun_phrase(nouns, depth)

    def sentence(self) -> _Phrase:
        choice = self.rng.random()
        if choice < 0.12:
            return self.question()
        clause, comma = self.clause(0), _leaf(",", "PUNCT")
        parts = [clause]
        if choice < 0.25:
            parts += [comma, _marked(self.word(("and", "but"), "CCONJ"), self.clause(1))]
        elif choice < 0.4:
            parts = [_marked(self.word(CONJUNCTIONS, "SCONJ"), self.clause(1)), comma, clause]
        elif choice < 0.5:
            parts = [self.adjunct(1), comma, clause]
        elif choice < 0.57:
            parts = [self.word(self.lexicon.manners, "ADV"), comma, clause]
        return _join(clause, *parts, self.word("...!", "PUNCT"))

    def question(self) -> _Phrase:
        frame = self.pick(self.lexicon.frames)
        subject = self.subject(frame.agents, 1)
        being = (self.copula[subject.plural], "gerund")
        forms = (("did", "base"), ("could", "base"), ("had", "participle"), being)
        auxiliary, form = self.pick(forms)
        verb = _verb(self.pick(frame.verbs), form)
        rest = self.complemented(verb, frame, 1)
        return _join(rest, _leaf(auxiliary, "AUX"), subject, rest, _leaf("?", "PUNCT"))


class _Log(_Register):
    """Entries of a log: the present tense, times and numbers, few articles, dropped auxiliaries."""

    groups = (
        *[(("", "present"), ("", "base"))] * 4,
        (("has", "participle"), ("have", "participle")),
        (("is", "gerund"), ("are", "gerund")),
        (("will", "base"), ("will", "base")),
        (("must", "base"), ("must", "base")),
    )
    copula = ("is", "are")
    possession = ("has", "have")
    articles = (0.15, 0.1)
    pronouns = 0.03

    def number(self, low: int, high: int) -> _Phrase:
        return _leaf(str(self.rng.randrange(low, high)), "NUM")

    def nominal(self, noun: str, plural: bool) -> _Phrase:
        nominal = super().nominal(noun, plural)
        if not plural and noun in self.lexicon.places and self.maybe(0.4):
            return _join(nominal, nominal, self.number(1, 12))
        if not plural and noun in CRAFT and self.maybe(0.4):
            return _join(nominal, nominal, self.word(self.lexicon.names, "PROPN"))
        return nominal

    def sentence(self) -> _Phrase:
        entry = self.entry()
        parts = [entry]
        if self.maybe(0.25):
            parts += [_leaf(";", "PUNCT"), self.entry()]
        if self.maybe(0.6):
            hour, minute = self.rng.randrange(24), self.rng.randrange(0, 60, 15)
            time = _entity("time", _leaf(f"{hour:02}{minute:02}", "NUM"))
            parts = [time, _leaf(":", "PUNCT"), *parts]
        return _join(entry, *parts, _leaf(".", "PUNCT"))

    def entry(self) -> _Phrase:
        choice = self.rng.random()
        if choice < 0.3:
            return self.clause(0)
        if choice < 0.4:
            clause = self.clause(1)
            return _join(clause, clause, _marked(self.word(CONJUNCTIONS, "SCONJ"), self.clause(2)))
        if choice < 0.6:
            return self.status()
        if choice < 0.85:
            frame = self.pick(self.lexicon.transitive)
            order = _verb(self.pick(frame.verbs), "base")
            return self.complemented(order, frame, 0)
        return self.weather()

    def status(self) -> _Phrase:
        """A clause without its auxiliary: `barge moored at pier 3`, `boats drifting off`."""
        frame = self.pick(self.lexicon.frames)
        subject = self.noun_phrase(frame.patients or frame.agents, 1)
        form = "participle" if frame.patients else "gerund"
        verb = _verb(self.pick(frame.verbs), form)
        return _join(verb, subject, verb, self.adjunct(1))

    def weather(self) -> _Phrase:
        noun = _entity("weather", self.word(WEATHER, "NOUN"))
        if self.maybe(0.4):
            return _join(noun, noun, self.word(self.lexicon.qualities, "ADJ"))
        bearing, knots = self.word(BEARINGS, "ADV"), _leaf("knots", "NOUN")
        speed = _entity("speed", _join(knots, self.number(2, 30), knots))
        return _join(noun, noun, bearing, _leaf(",", "PUNCT"), speed)


_REGISTERS: dict[str, tuple[type[_Narrative] | type[_Log], Lexicon]] = {
    "kitchen": (_Narrative, KITCHEN),
    "harbor": (_Log, HARBOR),
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


def _sentence(phrase: _Phrase) -> Sentence:
    first, *others = (token.form for token in phrase.tokens)
    tags = tuple(token.tag for token in phrase.tokens)
    heads = tuple(0 if i == head else head + 1 for i, head in enumerate(phrase.heads))
    return Sentence((first[0].upper() + first[1:], *others), tags, phrase.entities, heads)
