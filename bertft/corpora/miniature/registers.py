"""The two registers of the miniature: stories and logs, from auxiliaries to whole sentences."""

from collections.abc import Sequence

from bertft.corpora.miniature.lexicon import BEARINGS, CONJUNCTIONS, CRAFT, WEATHER
from bertft.corpora.miniature.phrases import Phrase, as_entity, conjugated, join, leaf, marked
from bertft.corpora.miniature.productions import Register


class Narrative(Register):
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

    def noun_phrase(self, nouns: Sequence[str], depth: int) -> Phrase:
        """Return a noun with what stands around it, or the name of a person."""
        if nouns is self.lexicon.people and self.maybe(0.3):
            return as_entity("person", self.word(self.lexicon.names, "PROPN"))
        return super().noun_phrase(nouns, depth)

    def sentence(self) -> Phrase:
        """Return a whole sentence."""
        choice = self.rng.random()
        if choice < 0.12:
            return self.question()
        clause, comma = self.clause(0), leaf(",", "PUNCT")
        parts = [clause]
        if choice < 0.25:
            parts += [comma, marked(self.word(("and", "but"), "CCONJ"), self.clause(1))]
        elif choice < 0.4:
            parts = [marked(self.word(CONJUNCTIONS, "SCONJ"), self.clause(1)), comma, clause]
        elif choice < 0.5:
            parts = [self.adjunct(1), comma, clause]
        elif choice < 0.57:
            parts = [self.word(self.lexicon.manners, "ADV"), comma, clause]
        return join(clause, *parts, self.word("...!", "PUNCT"))

    def question(self) -> Phrase:
        """Return a question, such as `did she salt the soup ?`."""
        frame = self.pick(self.lexicon.frames)
        subject = self.subject(frame.agents, 1)
        being = (self.copula[subject.plural], "gerund")
        forms = (("did", "base"), ("could", "base"), ("had", "participle"), being)
        auxiliary, form = self.pick(forms)
        verb = conjugated(self.pick(frame.verbs), form)
        rest = self.complemented(verb, frame, 1)
        return join(rest, leaf(auxiliary, "AUX"), subject, rest, leaf("?", "PUNCT"))


class Log(Register):
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

    def number(self, low: int, high: int) -> Phrase:
        """Return a number in digits, from `low` to below `high`."""
        return leaf(str(self.rng.randrange(low, high)), "NUM")

    def nominal(self, noun: str, plural: bool) -> Phrase:
        """Return a noun with what stands before it, and a number or name: `pier 3`."""
        nominal = super().nominal(noun, plural)
        if not plural and noun in self.lexicon.places and self.maybe(0.4):
            return join(nominal, nominal, self.number(1, 12))
        if not plural and noun in CRAFT and self.maybe(0.4):
            return join(nominal, nominal, self.word(self.lexicon.names, "PROPN"))
        return nominal

    def sentence(self) -> Phrase:
        """Return a whole sentence."""
        entry = self.entry()
        parts = [entry]
        if self.maybe(0.25):
            parts += [leaf(";", "PUNCT"), self.entry()]
        if self.maybe(0.6):
            hour, minute = self.rng.randrange(24), self.rng.randrange(0, 60, 15)
            time = as_entity("time", leaf(f"{hour:02}{minute:02}", "NUM"))
            parts = [time, leaf(":", "PUNCT"), *parts]
        return join(entry, *parts, leaf(".", "PUNCT"))

    def entry(self) -> Phrase:
        """Return what an entry says: a clause, a status, an order or the weather."""
        choice = self.rng.random()
        if choice < 0.3:
            return self.clause(0)
        if choice < 0.4:
            clause = self.clause(1)
            return join(clause, clause, marked(self.word(CONJUNCTIONS, "SCONJ"), self.clause(2)))
        if choice < 0.6:
            return self.status()
        if choice < 0.85:
            frame = self.pick(self.lexicon.transitive)
            order = conjugated(self.pick(frame.verbs), "base")
            return self.complemented(order, frame, 0)
        return self.weather()

    def status(self) -> Phrase:
        """A clause without its auxiliary: `barge moored at pier 3`, `boats drifting off`."""
        frame = self.pick(self.lexicon.frames)
        subject = self.noun_phrase(frame.patients or frame.agents, 1)
        form = "participle" if frame.patients else "gerund"
        verb = conjugated(self.pick(frame.verbs), form)
        return join(verb, subject, verb, self.adjunct(1))

    def weather(self) -> Phrase:
        """Return the weather: `fog heavy`, `wind north, 12 knots`."""
        noun = as_entity("weather", self.word(WEATHER, "NOUN"))
        if self.maybe(0.4):
            return join(noun, noun, self.word(self.lexicon.qualities, "ADJ"))
        bearing, knots = self.word(BEARINGS, "ADV"), leaf("knots", "NOUN")
        speed = as_entity("speed", join(knots, self.number(2, 30), knots))
        return join(noun, noun, bearing, leaf(",", "PUNCT"), speed)
