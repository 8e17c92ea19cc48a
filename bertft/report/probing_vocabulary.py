"""The words of probing: tasks as papers write them, and what each metric says.

Owns no number: the table is in `probing_table`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

RANDOMIZED, MIX, LEXICAL, CHAIN = "randomized", "mix", "lexical", "chain"

NAMES = {
    "pos": "POS",
    "arcs": "Dependency arcs",
    "entities": "Entities",
    "ner": "Entities",
    "constituents": "Constituents",
    "coref": "Coreference",
    "coreference": "Coreference",
    "srl": "SRL",
    "spr1": "SPR1",
    "spr2": "SPR2",
    "dpr": "DPR",
    "semeval": "SemEval relations",
    "structural": "Syntax trees",
}


class Metric(NamedTuple):
    """How a reader should take one metric.

    Attributes:
        name: as papers write it, with the unit that is shown.
        scale: what a value is multiplied by when it is shown.
        decimals: that are shown.
        least: the lowest value it can take.
        most: the highest.
        range: the values as they are shown, as text.
        better: where it goes when the label is easier to find.
        question: the question it answers, in one line.
    """

    name: str
    scale: float
    decimals: int
    least: float
    most: float
    range: str
    better: str
    question: str


METRICS = {
    "micro_f1": Metric(
        "micro-F1 (%)", 100, 2, 0, 1, "0 to 100", "higher",
        "How well does the probe decide, for every target and label, if the label is there?",
    ),
    "accuracy": Metric(
        "accuracy (%)", 100, 2, 0, 1, "0 to 100", "higher",
        "How often is the probe's first choice the one right label?",
    ),
    "uuas": Metric(
        "UUAS (%)", 100, 2, 0, 1, "0 to 100", "higher",
        "How many arcs of the tree are in the shortest tree that joins the words where the probe "
        "puts them, punctuation left out and directions aside?",
    ),
    "dspr": Metric(
        "DSpr (x 100)", 100, 2, -1, 1, "-100 to 100", "higher",
        "How well does the probe rank all words of a sentence by their distance in the tree from "
        "one of them, itself among them, on average over words and lengths of sentences?",
    ),
    "root_accuracy": Metric(
        "root accuracy (%)", 100, 2, 0, 1, "0 to 100", "higher",
        "How often is the root of the tree the word with the smallest depth by the probe?",
    ),
    "nspr": Metric(
        "NSpr (x 100)", 100, 2, -1, 1, "-100 to 100", "higher",
        "How well does the probe rank the words of a sentence by their depth, on average over "
        "lengths of sentences?",
    ),
    "selectivity": Metric(
        "selectivity (points)", 100, 2, -1, 1, "-100 to 100", "higher",
        "How much of the accuracy is lost when each word type has a random label instead? Near 0, "
        "the probe may have learned the words rather than read the representation.",
    ),
    "code_length_bits": Metric(
        "code length (kbit)", 0.001, 2, 0, np.inf, "0 upwards", "lower",
        "How many thousand bits send the labels to one who has the representation, probe included?",
    ),
    "compression": Metric(
        "compression", 1, 2, 0, np.inf, "0 upwards", "higher",
        "How many times shorter is that code than one without the representation? 1 is no gain.",
    ),
    "center_of_gravity": Metric(
        "center of gravity (layer)", 1, 2, 0, np.inf, "0 to the top layer", "neither",
        "Which layer does the mixture draw on, on average over its weights?",
    ),
    "expected_layer": Metric(
        "expected layer", 1, 2, -np.inf, np.inf, "mostly 0 to the top layer", "neither",
        "At which layer is a label found, on average over the gain that each further layer brings? "
        "It has no value where the layers together bring no gain.",
    ),
}  # fmt: skip
LABEL_SCORES = ("micro_f1", "accuracy")
TREE_SCORES = ("uuas", "dspr", "root_accuracy", "nspr")
SCORES = (*LABEL_SCORES, *TREE_SCORES)
CORRELATIONS = ("dspr", "nspr")
CODES = ("code_length_bits", "compression")
LAYERWISE = ("selectivity", *CODES)
DEPTHS = ("center_of_gravity", "expected_layer")


def name_of(task: str) -> str:
    """A task as it is written in papers; an unknown one stays as it is."""
    return NAMES.get(task, task)


def labels_of(models: Sequence[str]) -> dict[str, str]:
    """The shortest end of each path that no other model shares, to tell them apart by."""
    parts = {name: [part for part in name.split("/") if part] or [name] for name in models}
    labels = {}
    for name, own in parts.items():
        ends = (
            own[-k:]
            for k in range(1, len(own))
            if sum(other[-k:] == own[-k:] for other in parts.values()) == 1
        )
        labels[name] = "/".join(next(ends, [])) or name
    return labels


def title_of(task: str, probe: str, kinds: Collection[str]) -> str:
    """The task, and its kind of probe where there are several kinds."""
    return f"{name_of(task)}, {probe}" if len(kinds) > 1 else name_of(task)
