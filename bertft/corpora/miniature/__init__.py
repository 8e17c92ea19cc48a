"""The miniature: a generative grammar with known tags, and a tiny BERT pretrained on it.

Everything is made on the spot, so the library runs with no network and with a known truth.
"""

from bertft.corpora.miniature.grammar import DOMAINS, Sentence, sentences
from bertft.corpora.miniature.pretraining import Recipe, pretrained_miniature

__all__ = ["DOMAINS", "Recipe", "Sentence", "pretrained_miniature", "sentences"]
