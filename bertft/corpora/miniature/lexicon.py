"""The words of the miniature: two domains' lexicons, closed classes and English inflection."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Frame:
    """Verbs that share the nouns they take: `agents` do them, to `patients` if any."""

    verbs: tuple[str, ...]
    agents: tuple[str, ...]
    patients: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lexicon:
    """The content words of a domain; a verb is `base`, `base/past` or `base/past/participle`.

    `things` are the countable nouns that are neither people nor places, by the kind of entity.
    """

    frames: tuple[Frame, ...]
    people: tuple[str, ...]
    things: tuple[tuple[str, tuple[str, ...]], ...]
    traits: tuple[str, ...]
    names: tuple[str, ...]
    mass: tuple[str, ...]
    places: tuple[str, ...]
    qualities: tuple[str, ...]
    reports: tuple[str, ...]
    manners: tuple[str, ...]
    particles: tuple[str, ...]

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """The countable nouns, each once, in the order of the frames."""
        taken = (noun for frame in self.frames for noun in frame.agents + frame.patients)
        return tuple(dict.fromkeys((*taken, *self.people, *self.places)))

    def kind(self, noun: str, nouns: Sequence[str]) -> str:
        """Return the kind of entity that a countable noun is, as one of `nouns`."""
        kinds = (("person", self.people), *self.things, ("place", self.places))
        return next(kind for kind, own in kinds if noun in own and set(own) <= set(nouns))

    @cached_property
    def transitive(self) -> tuple[Frame, ...]:
        """The frames whose verbs take an object."""
        return tuple(frame for frame in self.frames if frame.patients)


def listed(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


_COOKS = listed("cook baker guest neighbor waiter aunt farmer butcher sister grocer")
_FOODS = listed("onion carrot pear plum potato peach dumpling pie slice roast herb pepper stew")
_WARES = listed("pan plate pot bowl oven stove tray grill watch spoon cover kettle light")
_COOKING = listed("salt butter peel slice roast grill chop taste season pepper spice stir boil")
KITCHEN = Lexicon(
    frames=(
        Frame(_COOKING, _COOKS, _FOODS),
        Frame(listed("clean dry fill cover oil plate watch drop do/did/done"), _COOKS, _WARES),
        Frame(listed("thank watch call tease greet help feed/fed"), _COOKS, _COOKS),
        Frame(listed("wait laugh hurry rest cook watch taste"), _COOKS),
        Frame(listed("simmer cool boil steam burn dry roast"), _FOODS + _WARES),
    ),
    people=_COOKS,
    things=(("food", _FOODS), ("tool", _WARES)),
    traits=listed("young tired clever kind early quiet happy open"),
    names=listed("Rosemary Basil Ginger Olive Martha Henry"),
    mass=listed("salt butter flour water sugar rice oil spice steam fish rosemary basil ginger"),
    places=listed("kitchen cellar garden market pantry table terrace"),
    qualities=listed("warm sweet bitter fresh clean dry light cool golden tender open ripe early"),
    reports=listed("say/said think/thought know/knew/known hope notice see/saw/seen"),
    manners=listed("slowly gently quickly often again soon early well carefully twice"),
    particles=listed("down over off in"),
)
_HANDS = listed("pilot captain deckhand inspector sailor mate agent engineer fisher watch")
CRAFT = listed("boat ferry barge tug trawler ship yacht launch pilot freighter")
_STORES = listed("crate barrel load net catch bale pallet haul marlin pearl")
_GEAR = listed("cable crane winch engine chart buoy lamp log anchor signal line hatch light")
HARBOR = Lexicon(
    frames=(
        Frame(listed("load ship haul land weigh ice net catch/caught lift"), _HANDS, _STORES),
        Frame(listed("tow moor anchor dock pilot fuel watch clear board launch"), _HANDS, CRAFT),
        Frame(listed("repair inspect clean dry paint log lower test"), _HANDS, _GEAR),
        Frame(listed("signal relieve call watch"), _HANDS, _HANDS),
        Frame(listed("drift dock anchor turn leave/left land sail steam list"), CRAFT),
        Frame(listed("wait fish rest signal report"), _HANDS),
    ),
    people=_HANDS,
    things=(("craft", CRAFT), ("goods", _STORES), ("tool", _GEAR)),
    traits=listed("senior second able late northern relief"),
    names=listed("Pearl Heron Swift Aurora Marlin Nordic"),
    mass=listed("fuel cargo fog ice fish salt ballast paint water freight tide"),
    places=listed("dock pier channel berth yard quay basin lock"),
    qualities=listed("calm heavy clear foul light dry open northern late swift slack adrift"),
    reports=listed("report note confirm signal log advise"),
    manners=listed("slowly astern ashore late early clear northward aboard"),
    particles=listed("off in out down"),
)

ADPOSITIONS = listed("in on near by over under from with")
BEARINGS = listed("north south east west")
CONJUNCTIONS = listed("when while before after until because since as although if")
CONTROLS = listed("try want need start hope")
DETERMINERS = (
    listed("the the a this that every"),
    listed("the the these those some all"),
)
NUMBERS = listed("two three four five six ten")
OBJECTS = listed("him her it them us that")
POSSESSIVES = listed("his her their our my")
SUBJECTS = (("he", False), ("she", False), ("it", False), ("they", True), ("we", True))
TIMES = listed("noon dawn dusk midnight")
WEATHER = listed("wind sea tide fog")
OTHERS = listed(
    "he she they we which and but have has had is are was were been did do will must would could "
    "not to of at very too knots"
)
CLOSED = (
    *(ADPOSITIONS + BEARINGS + CONJUNCTIONS + DETERMINERS[0] + DETERMINERS[1] + NUMBERS),
    *(OBJECTS + POSSESSIVES + TIMES + WEATHER + OTHERS),
)


def pluralize(noun: str) -> str:
    """Return the plural of a noun."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh|o)$", noun) else "s")


def conjugate(verb: str) -> dict[str, str]:
    """The five forms of a verb; one short closed syllable doubles its last consonant."""
    base, *irregular = verb.split("/")
    stem = base
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", base):
        stem = base + base[-1]
    elif re.search(r"[^e]e$", base):
        stem = base[:-1]
    regular = re.sub(r"([^aeiou])y$", r"\1i", stem) + "ed"
    return {
        "base": base,
        "present": pluralize(base),
        "past": irregular[0] if irregular else regular,
        "participle": irregular[-1] if irregular else regular,
        "gerund": stem + "ing",
    }
