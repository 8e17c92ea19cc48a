"""The biaffine parser against loops over its formula, and as a transformers model in a folder."""

import json
import math

import pytest
import torch

import bertft
from bertft.checkpoints import load_encoder
from bertft.finetuning.biaffine import ARC_WIDTH, LABEL_WIDTH, BiaffineParser
from bertft.models import encoder_of, freeze, randomize, truncate
from bertft.traces import inference
from tests.conftest import KINDS, tiny_config

LABELS = ("nsubj", "obj", "root", "det")
# Word 1 of the second sentence has no piece, word 0 of the first has three.
BATCH = {
    "input_ids": torch.tensor([[2, 7, 8, 9, 11, 3], [2, 12, 14, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
    "word_of_piece": torch.tensor([[-1, 0, 0, 0, 1, -1], [-1, 0, 2, -1, -1, -1]]),
    "lengths": torch.tensor([2, 3]),
}
HEADS = torch.tensor([[2, 0, -100], [0, 1, 1]])
GOLD = torch.tensor([[0, 2, -100], [2, -100, 1]])
SENTENCES = [
    # Pieces of each word, without the special tokens.
    [[12], [7, 8, 9], [11]],
    [[20]],
    [[5], [6, 30], [7], [8], [31, 32, 33], [9]],
]


def make_parser(kind="bert", *, seed=3, drawn=True, **options):
    """A parser in float64; its weights are random, since the bilinear ones start at 0."""
    config = tiny_config(kind, id2label=dict(enumerate(LABELS)), **options)
    torch.manual_seed(seed)
    parser = BiaffineParser(config).double()
    if drawn:
        with torch.no_grad():
            for parameter in parser.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return parser.eval()


def outputs(parser, batch, **truth):
    with inference(parser):
        return parser(**batch, **truth)


def batch_of(sentences):
    """A batch whose sentences are padded to the longest."""
    width = 2 + max(sum(map(len, words)) for words in sentences)
    batch = {key: torch.zeros(len(sentences), width, dtype=torch.long) for key in BATCH}
    batch["word_of_piece"] -= 1
    for row, words in enumerate(sentences):
        pieces = [2, *(piece for word in words for piece in word), 3]
        owners = [n for n, word in enumerate(words) for _ in word]
        batch["input_ids"][row, : len(pieces)] = torch.tensor(pieces)
        batch["attention_mask"][row, : len(pieces)] = 1
        batch["word_of_piece"][row, 1 : len(owners) + 1] = torch.tensor(owners)
    return batch | {"lengths": torch.tensor([len(words) for words in sentences])}


def mlp(projection, x):
    """Linear and leaky ReLU, from the weights."""
    linear = projection[0]
    y = linear.weight @ x + linear.bias
    return torch.where(y > 0, y, 0.1 * y)


def nodes_of(parser, batch, row):
    """The root and the words of a sentence: means over pieces, in loops."""
    hidden = encoder_of(parser)(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state[row]
    found = [parser.root]
    for word in range(int(batch["lengths"][row])):
        at = [p for p, owner in enumerate(batch["word_of_piece"][row].tolist()) if owner == word]
        total = torch.zeros_like(parser.root)
        for p in at:
            total = total + hidden[p]
        found.append(total / max(len(at), 1))
    return found


def arc_score(parser, dependent, head):
    d, h = mlp(parser.arc_dependent, dependent), mlp(parser.arc_head, head)
    return d @ (parser.arc_bilinear @ h) + parser.arc_bias @ h


def label_score(parser, dependent, head, label):
    d, h = mlp(parser.label_dependent, dependent), mlp(parser.label_head, head)
    table = parser.label_bilinear[:, label]
    bilinear = d @ (table[:LABEL_WIDTH, :LABEL_WIDTH] @ h)
    biases = d @ table[:LABEL_WIDTH, LABEL_WIDTH] + table[LABEL_WIDTH, :LABEL_WIDTH] @ h
    return bilinear + biases + table[LABEL_WIDTH, LABEL_WIDTH]


def naive(parser, batch):
    """For each sentence: arc scores by (word, head), label scores by (word, head, label)."""
    found = []
    with inference(parser):
        for row in range(len(batch["lengths"])):
            nodes = nodes_of(parser, batch, row)
            arcs = [[float(arc_score(parser, d, h)) for h in nodes] for d in nodes[1:]]
            labels = [
                [[float(label_score(parser, d, h, r)) for r in range(len(LABELS))] for h in nodes]
                for d in nodes[1:]
            ]
            found.append([torch.tensor(scores, dtype=torch.float64) for scores in (arcs, labels)])
    return found


def test_the_widths_are_those_of_the_paper():
    parser = make_parser(drawn=False)
    assert (ARC_WIDTH, LABEL_WIDTH) == (500, 100)
    for part, width in {"arc": 500, "label": 100}.items():
        for side in ("dependent", "head"):
            linear, relu, dropout = getattr(parser, f"{part}_{side}")
            assert linear.weight.shape == (width, 24)
            assert (relu.negative_slope, dropout.p) == (0.1, 0.33)
    assert not parser.arc_bilinear.any()
    assert not parser.label_bilinear.any()
    assert parser.root.all()


@pytest.mark.parametrize("kind", KINDS)
def test_arcs_and_labels_are_those_of_the_formula(kind):
    parser = make_parser(kind)
    output = outputs(parser, BATCH)
    for row, (arcs, labels) in enumerate(naive(parser, BATCH)):
        n = len(arcs)
        assert arcs.std() > 0.01
        own = output.arcs[row, :n, : n + 1].double()
        torch.testing.assert_close(own, arcs, rtol=1e-5, atol=1e-6)
        assert (output.arcs[row, :, n + 1 :] == -torch.inf).all()
        for head in range(n + 1):
            heads = torch.full((2, 3), head)
            with inference(parser):
                scores = parser.label_scores(output.nodes, heads)
            torch.testing.assert_close(scores[row, :n], labels[:, head], rtol=1e-9, atol=1e-9)


def negative_log_share(scores, truth):
    return math.log(sum(math.exp(score) for score in scores)) - scores[truth]


def test_the_loss_is_the_mean_over_words_of_both_cross_entropies():
    parser = make_parser()
    arcs, labels = [], []
    for row, (arc_table, label_table) in enumerate(naive(parser, BATCH)):
        for word, (head, label) in enumerate(zip(HEADS[row], GOLD[row], strict=True)):
            if head >= 0:
                arcs.append(negative_log_share(arc_table[word].tolist(), head))
            if label >= 0:
                labels.append(negative_log_share(label_table[word, head].tolist(), label))
    assert (len(arcs), len(labels)) == (5, 4)
    loss = outputs(parser, BATCH, heads=HEADS, labels=GOLD).loss
    assert float(loss) == pytest.approx(sum(arcs) / 5 + sum(labels) / 4, rel=1e-5)
    assert outputs(parser, BATCH).loss is None


def test_a_new_parser_knows_nothing():
    loss = outputs(make_parser(drawn=False), BATCH, heads=HEADS, labels=GOLD).loss
    heads = (2 * math.log(3) + 3 * math.log(4)) / 5
    assert float(loss) == pytest.approx(heads + math.log(len(LABELS)), rel=1e-6)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2"])
def test_padding_does_not_matter(kind):
    parser = make_parser(kind)
    together = outputs(parser, batch_of(SENTENCES))
    heads = torch.zeros(len(SENTENCES), 6, dtype=torch.long)
    with inference(parser):
        labels = parser.label_scores(together.nodes, heads)
    for row, words in enumerate(SENTENCES):
        n = len(words)
        alone = outputs(parser, batch_of([words]))
        with inference(parser):
            own = parser.label_scores(alone.nodes, heads[:1, :n])
        close = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(together.arcs[row, :n, : n + 1], alone.arcs[0], **close)
        torch.testing.assert_close(labels[row, :n], own[0], **close)


def test_the_loss_ignores_padding():
    parser = make_parser()
    heads, labels = torch.full((2, 6), -100), torch.full((2, 6), -100)
    heads[0, :3], labels[0, :3] = torch.tensor([2, 0, 2]), torch.tensor([0, 2, 1])
    alone = batch_of(SENTENCES[:1])
    expected = outputs(parser, alone, heads=heads[:1, :3], labels=labels[:1, :3]).loss
    loss = outputs(parser, batch_of([SENTENCES[0], SENTENCES[2]]), heads=heads, labels=labels).loss
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_words_are_means_of_their_pieces():
    parser = make_parser()
    nodes = outputs(parser, BATCH).nodes
    with inference(parser):
        hidden = encoder_of(parser)(
            input_ids=BATCH["input_ids"], attention_mask=BATCH["attention_mask"]
        ).last_hidden_state
    assert nodes.shape == (2, 4, 24)
    assert torch.equal(nodes[:, 0], parser.root.expand(2, -1))
    expected = (hidden[0, 1] + hidden[0, 2] + hidden[0, 3]) / 3
    torch.testing.assert_close(nodes[0, 1], expected)
    torch.testing.assert_close(nodes[0, 2], hidden[0, 4])
    torch.testing.assert_close(nodes[1, 3], hidden[1, 2])


def test_a_word_without_a_piece_is_zero():
    nodes = outputs(make_parser(), BATCH).nodes
    assert not nodes[1, 2].any()
    assert not nodes[0, 3].any()


def test_gradients_reach_every_part():
    parser = make_parser(drawn=False)
    parser.train()
    optimizer = torch.optim.AdamW(parser.parameters(), lr=1e-3)
    head = ("root", "arc_dependent", "arc_head", "label_dependent", "label_head")
    starts = ("arc_bilinear", "arc_bias", "label_bilinear")
    for trained in (starts, (*starts, *head)):
        parser(**BATCH, heads=HEADS, labels=GOLD).loss.backward()
        moved = {
            name.partition(".")[0]
            for name, parameter in parser.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        # What a bilinear form multiplies gets no gradient while the form is 0.
        assert moved - {"bert"} == set(trained)
        optimizer.step()
        optimizer.zero_grad()
    assert "bert" in moved


def test_gradients_reach_every_block():
    parser = make_parser().train()
    parser(**BATCH, heads=HEADS, labels=GOLD).loss.backward()
    for name, parameter in parser.named_parameters():
        assert ("pooler" in name) == (parameter.grad is None), name


@pytest.fixture
def saved(tmp_path, tokenizer):
    """Save a parser with random weights and return it and its folder."""

    def save(kind="bert", name="parser"):
        parser = make_parser(kind).float()
        parser.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return parser, tmp_path / name

    return save


@pytest.mark.parametrize("kind", KINDS)
def test_parsers_save_and_load_to_the_bit(saved, kind):
    parser, folder = saved(kind)
    loaded = BiaffineParser.from_pretrained(folder)
    assert not loaded.training
    own, other = parser.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    before = outputs(parser, BATCH, heads=HEADS, labels=GOLD)
    after = outputs(loaded, BATCH, heads=HEADS, labels=GOLD)
    assert all(torch.equal(before[key], after[key]) for key in ("loss", "arcs", "nodes"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_a_parser_is_that_of_its_encoder(saved, kind):
    parser, folder = saved(kind)
    encoder = load_encoder(str(folder), torch.float32)
    assert type(encoder) is type(encoder_of(parser))
    own, other = encoder_of(parser).state_dict(), encoder.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)


def test_the_folder_of_a_parser_brings_no_code(saved):
    _, folder = saved()
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BiaffineParser"]
    assert "auto_map" not in config
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".txt"}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2"])
def test_a_parser_is_compared_with_its_pretrained_encoder(checkpoint, tmp_path, tokenizer, kind):
    base = checkpoint("base", kind=kind)
    parser = make_parser(kind).float()
    encoder_of(parser).load_state_dict(load_encoder(str(base), torch.float32).state_dict())
    freeze(parser, 2)
    parser.train()
    optimizer = torch.optim.AdamW(parser.parameters(), lr=1e-2)
    for _ in range(2):
        parser(**BATCH, heads=HEADS, labels=GOLD).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path / "parser"
    parser.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = ["the cat sat on the mat .", "a dog ran and a cat saw the boat", "a player ran"]
    table = bertft.compare(str(base), str(folder), texts, measures=["rsa"]).table
    values = table.set_index("pretrained_layer").value
    assert list(values[[0, 1, 2]]) == pytest.approx([1, 1, 1], abs=1e-12)
    assert values[3] < 0.9999


def test_parsers_are_truncated_and_randomized():
    parser, whole = make_parser(), make_parser()
    truncate(parser, 1)
    with inference(parser, whole):
        states = encoder_of(whole)(
            input_ids=BATCH["input_ids"],
            attention_mask=BATCH["attention_mask"],
            output_hidden_states=True,
        ).hidden_states
    nodes = outputs(parser, BATCH).nodes
    torch.testing.assert_close(nodes[1, 1], states[1][1, 1])
    before = parser.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    randomize(parser, 5)
    changed = {key for key, value in parser.state_dict().items() if not value.equal(before[key])}
    assert changed == set(before)


def test_a_folder_without_the_head_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"must hold every weight of a parser, got .* without"):
        BiaffineParser.from_pretrained(checkpoint("encoder"))
