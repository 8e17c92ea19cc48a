"""The demo: its words follow its numbers, and it runs end to end."""

import pandas as pd
import pytest

from bertft import demonstration
from bertft.corpora.miniature import Recipe, pretrained_miniature
from bertft.demonstration import _across_domains, _towards_the_top


@pytest.mark.parametrize(
    ("rsa", "words"),
    [
        ([0.99, 0.8, 0.5], "On 'a' RSA falls towards the top, from 0.990 at layer 0 to 0.500"),
        ([0.99, 0.4, 0.5], "but is lowest at layer 1 (0.400)"),
        ([0.5, 0.4, 0.5], "RSA does not fall towards the top: it goes from 0.500"),
        ([0.5, 0.6, 0.7], "does not fall towards the top"),
    ],
)
def test_words_about_layers(rsa, words):
    assert words in _towards_the_top("a", rsa)


def test_words_about_domains():
    more = "The top layer changed more inside the fine-tuning domain than outside"
    assert more in _across_domains("a", 0.5, "b", 0.6)
    less = "The top layer did not change more inside"
    assert less in _across_domains("a", 0.6, "b", 0.6)
    assert less in _across_domains("a", 0.7, "b", 0.6)


def test_demo_end_to_end(tmp_path, monkeypatch, capsys):
    recipe = Recipe(layers=2, width=16, heads=2, intermediate=24, sentences=64, steps=4)
    monkeypatch.setattr(
        demonstration,
        "pretrained_miniature",
        lambda progress: pretrained_miniature(recipe, tmp_path, progress),
    )
    monkeypatch.setattr(demonstration, "TRAINING_SENTENCES", 48)
    monkeypatch.setattr(demonstration, "COMPARED_SENTENCES", 30)
    comparison = demonstration.demo(progress=True)
    assert set(comparison.table["corpus"]) == {"kitchen", "harbor"}
    assert comparison.table["pretrained_layer"].max() == 2
    assert comparison.provenance["notes"][-3:] == demonstration.outcome(
        comparison, "kitchen", "harbor"
    )
    assert "on held-out sentences, dev: accuracy " in capsys.readouterr().err
    assert all(name.startswith(str(tmp_path)) for name in comparison.table["finetuned"])
    again = demonstration.demo()
    pd.testing.assert_frame_equal(again.table, comparison.table, atol=1e-6)
