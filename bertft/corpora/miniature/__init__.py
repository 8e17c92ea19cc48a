"""The miniature: a grammar with known tags, trees and entities, and a tiny BERT pretrained on it.

Everything is made on the spot, so the library runs with no network and with a known truth.
"""

from bertft.corpora.miniature.grammar import DOMAINS, Sentence, sentences
from bertft.corpora.miniature.pretraining import Recipe, pretrained_miniature
from bertft.corpora.miniature.records import dependency_trees, entity_records, tag_records

__all__ = [
    "DOMAINS",
    "Recipe",
    "Sentence",
    "dependency_trees",
    "entity_records",
    "pretrained_miniature",
    "sentences",
    "tag_records",
]
