"""The productions that all registers of the miniature share: from nouns and verbs to clauses.

A production returns a `Phrase`; agreement follows its head. Whole sentences are in `registers`.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from bertft.corpora.miniature.lexicon import (
    ADPOSITIONS,
    CONTROLS,
    DETERMINERS,
    NUMBERS,
    OBJECTS,
    POSSESSIVES,
    SUBJECTS,
    TIMES,
    Frame,
    Lexicon,
    conjugate,
    pluralize,
)
from bertft.corpora.miniature.phrases import Phrase, as_entity, conjugated, join, leaf, marked

_Option = TypeVar("_Option")


class Register:
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
        """Return True in this share of cases."""
        return self.rng.random() < share

    def pick(self, options: Sequence[_Option]) -> _Option:
        """One of `options`; the first k of n share a probability of sqrt(k / n)."""
        chance = self.rng.random()
        return options[int(chance * chance * len(options))]

    def word(self, forms: Sequence[str], tag: str) -> Phrase:
        """Return one of some words, the first ones most often."""
        return leaf(self.pick(forms), tag)

    def noun_phrase(self, nouns: Sequence[str], depth: int) -> Phrase:
        """Return a noun with what stands around it: `the old cook that burned`."""
        if depth < 2 and self.maybe(0.08):
            first, last = self.noun_phrase(nouns, 2), self.noun_phrase(nouns, 2)
            both = join(first, first, marked(leaf("and", "CCONJ"), last))
            return replace(both, plural=True)
        if nouns is not self.lexicon.people and self.maybe(0.12):
            return self.substance()
        noun = self.pick(nouns)
        nominal = self.nominal(noun, self.maybe(0.4))
        if self.maybe(self.articles[nominal.plural]):
            nominal = join(nominal, self.determiner(nominal.plural), nominal)
        elif nominal.plural and self.maybe(0.4):
            nominal = join(nominal, self.word(NUMBERS, "NUM"), nominal)
        nominal = as_entity(self.lexicon.kind(noun, nouns), nominal)
        if depth < 2 and self.maybe(0.25):
            nominal = join(nominal, nominal, self.postmodifier(noun, nominal.plural, depth + 1))
        return nominal

    def substance(self) -> Phrase:
        """Return a noun that is not counted: `rice`."""
        return as_entity("substance", self.word(self.lexicon.mass, "NOUN"))

    def nominal(self, noun: str, plural: bool) -> Phrase:
        """Return a noun after its adjective, participle and noun: `old salted onion soup`."""
        head = leaf(pluralize(noun) if plural else noun, "NOUN", plural)
        before = []
        person = noun in self.lexicon.people
        if self.maybe(0.2):
            before.append(
                self.word(self.lexicon.traits if person else self.lexicon.qualities, "ADJ")
            )
        fates = [frame for frame in self.lexicon.transitive if noun in frame.patients]
        if fates and self.maybe(0.15):
            verb = self.pick(self.pick(fates).verbs)
            before.append(leaf(conjugate(verb)["participle"], "ADJ"))
        if not person and self.maybe(0.2):
            modifiers = self.lexicon.mass if self.maybe(0.4) else self.lexicon.nouns
            before.append(self.word(modifiers, "NOUN"))
        return join(head, *before, head)

    def determiner(self, plural: bool) -> Phrase:
        """Return an article, a demonstrative or a possessive."""
        if self.maybe(0.15):
            return self.word(POSSESSIVES, "PRON")
        return self.word(DETERMINERS[plural], "DET")

    def postmodifier(self, noun: str, plural: bool, depth: int) -> Phrase:
        """What follows a noun: `that burned`, `that she salted`, `salted by her`, `of rice`."""
        deeds = [frame for frame in self.lexicon.frames if noun in frame.agents]
        fates = [frame for frame in self.lexicon.transitive if noun in frame.patients]
        choice = self.rng.random()
        if deeds and choice < 0.25:
            clause = self.predicate(self.pick(deeds), plural, depth)
            return join(clause, self.word(("that", "that", "which"), "PRON"), clause)
        if fates and choice < 0.7:
            frame = self.pick(fates)
            verb = self.pick(frame.verbs)
            if choice < 0.45:
                agent, participle = self.subject(frame.agents, 2), conjugated(verb, "participle")
                by = marked(leaf("by", "ADP"), self.object(frame.agents, 2))
                return join(participle, participle, by)
            agent = self.subject(frame.agents, 2)
            gapped = self.group(verb, agent.plural)
            return join(gapped, leaf("that", "PRON"), agent, gapped)
        if choice < 0.8:
            stuff = self.substance()
            return join(stuff, leaf("of", "ADP"), stuff)
        return self.adjunct(depth)

    def adjunct(self, depth: int) -> Phrase:
        """Return a time or a place: `before noon`, `in the old pot`."""
        if self.maybe(0.25):
            time = as_entity("time", self.word(TIMES, "NOUN"))
            return join(time, self.word(("before", "after", "until", "at"), "ADP"), time)
        place = self.noun_phrase(self.lexicon.places, max(depth, 1))
        return join(place, self.word(ADPOSITIONS, "ADP"), place)

    def subject(self, nouns: Sequence[str], depth: int) -> Phrase:
        """Return what a verb agrees with; people may be a pronoun."""
        if nouns is self.lexicon.people and self.maybe(self.pronouns):
            form, plural = self.pick(SUBJECTS)
            return leaf(form, "PRON", plural)
        return self.noun_phrase(nouns, depth)

    def object(self, nouns: Sequence[str], depth: int) -> Phrase:
        """Return what a verb takes, which may be a pronoun."""
        if self.maybe(self.pronouns):
            return self.word(OBJECTS, "PRON")
        return self.noun_phrase(nouns, depth)

    def group(self, verb: str, plural: bool) -> Phrase:
        """A verb after its auxiliaries, negation and adverb."""
        auxiliaries, form = self.pick(self.groups)[plural]
        before = [leaf(word, "AUX") for word in auxiliaries.split()]
        if auxiliaries == "did" or (auxiliaries and self.maybe(0.1)):
            before.append(leaf("not", "PART"))
        if self.maybe(0.08):
            before.append(self.word(self.lexicon.manners, "ADV"))
        head = conjugated(verb, form)
        return join(head, *before, head)

    def complemented(self, verb: Phrase, frame: Frame, depth: int) -> Phrase:
        """A verb before its object, particle and adjunct."""
        after = [self.object(frame.patients, depth + 1)] if frame.patients else []
        if self.maybe(0.15):
            after.append(self.word(self.lexicon.particles, "ADV"))
        if self.maybe(0.25):
            after.append(self.adjunct(depth + 1))
        elif self.maybe(0.25):
            after.append(self.word(self.lexicon.manners, "ADV"))
        return join(verb, verb, *after)

    def predicate(self, frame: Frame, plural: bool, depth: int) -> Phrase:
        """Return what is said of a subject of this number: `burned the rice`, `is sad`."""
        person = frame.agents is self.lexicon.people
        choice = self.rng.random()
        if choice < 0.12:
            return self.described(person, plural)
        if person and choice < 0.2:
            control, verb = (
                self.group(self.pick(CONTROLS), plural),
                self.pick(frame.verbs),
            )
            rest = self.complemented(conjugated(verb, "base"), frame, depth)
            return join(control, control, marked(leaf("to", "PART"), rest))
        if person and choice < 0.27:
            have = leaf(self.possession[plural], "VERB")
            return join(have, have, self.object(frame.patients or self.lexicon.nouns, depth + 1))
        if person and choice < 0.42 and depth < 2:
            report = self.group(self.pick(self.lexicon.reports), plural)
            is_marked = self.maybe(0.75)
            clause = self.clause(depth + 1)
            if is_marked:
                clause = marked(leaf("that", "SCONJ"), clause)
            return join(report, report, clause)
        return self.complemented(self.group(self.pick(frame.verbs), plural), frame, depth)

    def described(self, person: bool, plural: bool) -> Phrase:
        """Return a quality after its copula: `were very sad`."""
        lexicon = self.lexicon
        quality = self.word(lexicon.traits if person else lexicon.qualities, "ADJ")
        degree = [self.word(("very", "too"), "ADV")] if self.maybe(0.3) else []
        return join(quality, leaf(self.copula[plural], "AUX"), *degree, quality)

    def clause(self, depth: int) -> Phrase:
        """Return a subject with its predicate, or a passive."""
        frame = self.pick(self.lexicon.frames)
        if frame.patients and self.maybe(0.15):
            return self.passive(frame, depth)
        subject = self.subject(frame.agents, depth)
        predicate = self.predicate(frame, subject.plural, depth)
        return join(predicate, subject, predicate)

    def passive(self, frame: Frame, depth: int) -> Phrase:
        """Return a clause of what is done to its subject: `rice was salted by her`."""
        subject, verb = self.noun_phrase(frame.patients, depth), self.pick(frame.verbs)
        participle = conjugated(verb, "participle")
        parts = [subject, leaf(self.copula[subject.plural], "AUX"), participle]
        if self.maybe(0.5):
            parts.append(marked(leaf("by", "ADP"), self.noun_phrase(frame.agents, depth + 1)))
        return join(participle, *parts)
