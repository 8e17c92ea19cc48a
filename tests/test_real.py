"""Real checkpoints on real text: a brute-force computation in float64 agrees in every layer."""

import numpy as np
import pytest
import torch

import bertft
from bertft.checkpoints import load_encoder, load_tokenizer
from bertft.corpora import read
from bertft.rows import draw
from bertft.tokenizing import encode
from bertft.traces import inference

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def models(shared):
    return str(shared / "models" / "minilm"), str(shared / "models" / "minilm-dep")


@pytest.fixture(scope="module")
def treebank(shared):
    return shared / "data" / "ud_english_ewt" / "en_ewt-ud-dev.conllu"


def plain_rows(folder, rows):
    """Word rows of every layer: `output_hidden_states`, one text at a time, a mean per word."""
    encoder = load_encoder(folder, torch.float32)
    found = []
    with inference(encoder):
        for text in rows.texts:
            ids = torch.from_numpy(text.ids)[None]
            states = encoder(input_ids=ids, output_hidden_states=True).hidden_states
            for start, stop in zip(text.starts, text.stops, strict=True):
                found.append(torch.stack([h[0, start:stop].mean(dim=0) for h in states]))
    return torch.stack(found, dim=1).double().numpy()


def kept_whitening(x):
    """Rank rule of the library, on the rows themselves."""
    x = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x)
    kept = values > 1e-8 * values[-1]
    return x @ (vectors[:, kept] / np.sqrt(values[kept]))


def cosines(x):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (x @ x.T)[np.triu_indices(len(x), 1)]


def brute_force(x, y):
    white_x, white_y = kept_whitening(x), kept_whitening(y)
    kx, ky = (rows - rows.mean(axis=0) for rows in (x, y))
    cka = np.sum((kx.T @ ky) ** 2) / np.linalg.norm(kx.T @ kx) / np.linalg.norm(ky.T @ ky)
    return {
        "rsa": np.corrcoef(cosines(x), cosines(y))[0, 1],
        "cka": cka,
        "cca": np.linalg.svd(white_x.T @ white_y, compute_uv=False).mean(),
    }, (white_x.shape[1], white_y.shape[1])


@pytest.fixture(scope="module")
def compared(models, treebank):
    return bertft.compare(*models, treebank, limit=4000)


def test_brute_force_agrees_in_every_layer(models, treebank, compared):
    tokenizer = load_tokenizer(models[0])
    rows = draw(encode(read(treebank).texts, tokenizer), 4000, seed=0)
    before, after = (plain_rows(folder, rows) for folder in models)
    table = compared.table.pivot(index="pretrained_layer", columns="measure", values="value")
    for layer, diagnosed in enumerate(compared.provenance["diagnostics"]):
        expected, ranks = brute_force(before[layer], after[layer])
        assert (diagnosed["rank_pretrained"], diagnosed["rank_finetuned"]) == ranks
        for measure, value in expected.items():
            assert table.loc[layer, measure] == pytest.approx(value, abs=1e-5), (measure, layer)


def test_parsing_changes_the_upper_layers_most(compared):
    rsa = compared.table.query("measure == 'rsa'")["value"].to_numpy()
    assert rsa[0] > 0.99
    assert rsa[6] == pytest.approx(0.3, abs=0.05)
    assert (np.diff(rsa) < 0).all()


def test_values_do_not_depend_on_batches(models, treebank):
    few = {"limit": 500, "measures": ["rsa", "cka"]}
    compared = bertft.compare(*models, treebank, **few)
    other = bertft.compare(*models, treebank, batch_size=5, **few)
    for measure in ("rsa", "cka"):
        a, b = (
            t.query(f"measure == '{measure}'")["value"].to_numpy()
            for t in (compared.table, other.table)
        )
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize(
    "name",
    [
        "ud_english_pud/en_pud-ud-test.conllu",
        "ud_english_atis/en_atis-ud-dev.conllu",
        "wikitext2/valid.txt",
        "gutenberg/alice_11.txt",
    ],
)
def test_other_corpora_are_read(shared, models, name):
    corpus = read(shared / "data" / name)
    rows = encode(corpus.texts, load_tokenizer(models[0]), max_length=512)
    words = sum(len(text.words) for text in corpus.texts)
    assert rows.n + rows.dropped_words + rows.truncated_words == words
    assert rows.dropped_words < 0.01 * words
