"""Phrases of the miniature: words in their order, what heads them, and the entities among them."""

from dataclasses import dataclass, replace

from bertft.corpora.miniature.lexicon import conjugate

Entity = tuple[int, int, str]


@dataclass(frozen=True, eq=False)
class Token:
    """A word as it is written, and its universal part of speech."""

    form: str
    tag: str


@dataclass(frozen=True, eq=False)
class Phrase:
    """A constituent.

    Attributes:
        tokens: in surface order.
        heads: the place of each token's head, that of the constituent's own head for itself.
        plural: what agrees with it has the form of the plural.
        entities: within its tokens.
    """

    tokens: tuple[Token, ...]
    heads: tuple[int, ...] = (0,)
    plural: bool = False
    entities: tuple[Entity, ...] = ()

    @property
    def root(self) -> int:
        """The place of the token that heads it."""
        return next(i for i, head in enumerate(self.heads) if i == head)


def leaf(form: str, tag: str, plural: bool = False) -> Phrase:
    """Return a phrase of one word."""
    return Phrase((Token(form, tag),), plural=plural)


def conjugated(verb: str, form: str) -> Phrase:
    """Return a phrase of a verb in one of its forms."""
    return leaf(conjugate(verb)[form], "VERB")


def join(head: Phrase, *parts: Phrase) -> Phrase:
    """The constituent of `parts` in surface order; the others depend on `head`, one of them."""
    tokens: list[Token] = []
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
    return Phrase(tuple(tokens), tuple(heads), head.plural, tuple(entities))


def marked(mark: Phrase, phrase: Phrase) -> Phrase:
    """A constituent after a word that depends on its head: `by her`, `that she salted`."""
    return join(phrase, mark, phrase)


def as_entity(kind: str, phrase: Phrase) -> Phrase:
    """The same constituent, which is an entity as a whole."""
    return replace(phrase, entities=((0, len(phrase.tokens), kind),))
