"""A tiny BERT pretrained on the grammar: its vocabulary, its masked-word training, its cache.

Owns the folder that stands in for a downloaded model: weights, configuration and tokenizer that
`AutoModel` and `AutoTokenizer` load. Fine-tuning it is left to `bertft.finetuning`.
"""

import hashlib
import json
import os
import string
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bertft.corpora.miniature.grammar import DOMAINS, paradigms, sentences
from bertft.quiet import quiet

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, BertTokenizer

_FORMAT = 1
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_IGNORED = -100
# Pieces of the longest sentence that the grammar is let to make, special ones included.
_LONGEST = 128


@dataclass(frozen=True)
class Recipe:
    """How the miniature is built and pretrained.

    Attributes:
        layers: transformer layers.
        width: hidden size, a multiple of `heads`.
        heads: attention heads of a layer.
        intermediate: width of the feed-forward part.
        positions: the longest input, in pieces.
        dropout: share of hidden values and of attention dropped in training.
        sentences: training sentences of each domain.
        steps: optimizer steps.
        batch_size: sentences a step.
        lr: peak learning rate, held between a short rise and a fall over the last fifth.
        masked: share of the pieces to predict.
        seed: of the sentences, the initial weights and the masks.
    """

    layers: int = 6
    width: int = 96
    heads: int = 4
    intermediate: int = 192
    positions: int = 128
    dropout: float = 0.0
    sentences: int = 8000
    steps: int = 1200
    batch_size: int = 32
    lr: float = 1.5e-3
    masked: float = 0.3
    seed: int = 20


_DEFAULT = Recipe()


def vocabulary() -> list[str]:
    """Return the pieces of the miniature's WordPiece tokenizer, in the order of their ids.

    The stem of a lexeme is what its forms share (`slic` of slice, slices, sliced, slicing), and
    what is left of each form is a suffix piece. The characters of printable ASCII are pieces too,
    so any such text can be tokenized.
    """
    stems: set[str] = set()
    suffixes: set[str] = set()
    for forms in paradigms():
        stem = _shared(forms)
        stems.add(stem)
        suffixes |= {f"##{form.removeprefix(stem)}" for form in forms if form != stem}
    characters = set(string.digits + string.ascii_lowercase + string.punctuation)
    single = characters | {f"##{character}" for character in characters}
    return [*_SPECIAL, *sorted(single), *sorted(stems - single), *sorted(suffixes - single)]


def pretrained_miniature(
    recipe: Recipe = _DEFAULT,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the folder of the pretrained miniature, which the first call makes.

    The making takes about half a minute on two cores. The folder's name carries a hash of the
    recipe, the grammar and the vocabulary, so a change of any of them trains anew. It appears
    whole or not at all, however many processes ask for it. The caller's random state and threads
    are as before.

    Args:
        recipe: settings of the model and of its training.
        cache: where the folder lies; by default `bertft` in `$XDG_CACHE_HOME` or `~/.cache`.
        progress: called with (steps done, steps in all) after every step of the training.

    Raises:
        ValueError: a number of the recipe is out of range.
    """
    _check(recipe)
    cache = _default_cache() if cache is None else Path(cache)
    folder = cache / f"miniature-{_key(recipe)}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".miniature-", dir=cache) as temporary, quiet():
        made = Path(temporary) / folder.name
        tokenizer = _tokenizer(recipe)
        _pretrain(recipe, tokenizer, progress).save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster: a folder that is not empty cannot be replaced.
            if not folder.is_dir():
                raise
    return folder


def _check(recipe: Recipe) -> None:
    def require(name: str, holds: bool, requirement: str) -> None:
        if not holds:
            raise ValueError(
                f"[pretrained_miniature] {name} must be {requirement}, got "
                f"{getattr(recipe, name)}; change it in the recipe."
            )

    for name in ("layers", "heads", "intermediate", "sentences", "steps", "batch_size"):
        require(name, getattr(recipe, name) >= 1, "at least 1")
    fits = recipe.width >= 1 and recipe.width % recipe.heads == 0
    require("width", fits, f"a positive multiple of the {recipe.heads} heads")
    require("positions", recipe.positions >= _LONGEST, f"at least {_LONGEST}")
    require("seed", recipe.seed >= 0, "at least 0")
    require("dropout", 0 <= recipe.dropout < 1, "in [0, 1)")
    require("masked", 0 < recipe.masked < 1, "in (0, 1)")
    require("lr", recipe.lr > 0, "positive")


def _default_cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "bertft"


def _key(recipe: Recipe) -> str:
    """Hash of what decides the weights: the recipe, the sentences and the vocabulary."""
    samples = [sentences(domain, 200, recipe.seed) for domain in DOMAINS]
    parts = [_FORMAT, asdict(recipe), vocabulary(), [[s.words for s in each] for each in samples]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _shared(forms: tuple[str, ...]) -> str:
    """The longest common beginning; of sorted words only the outer two count."""
    first, last = min(forms), max(forms)
    differ = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differ, len(first))]


def _tokenizer(recipe: Recipe) -> "BertTokenizer":
    from transformers import BertTokenizer

    ids = {piece: index for index, piece in enumerate(vocabulary())}
    return BertTokenizer(ids, do_lower_case=True, model_max_length=recipe.positions)


def _model(recipe: Recipe, pieces: int) -> "BertForMaskedLM":
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=pieces,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=recipe.dropout,
        max_position_embeddings=recipe.positions,
        pad_token_id=_SPECIAL.index("[PAD]"),
        # The default, 0.02, suits a width of 768 and starves the gradients of a narrow model.
        initializer_range=0.05,
    )
    return BertForMaskedLM(config)


def _pretrain(
    recipe: Recipe, tokenizer: "BertTokenizer", progress: Callable[[int, int], None] | None
) -> "BertForMaskedLM":
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
        # torch.manual_seed would also seed the caller's GPUs.
        torch.random.default_generator.manual_seed(recipe.seed)
        model = _model(recipe, len(tokenizer))
        model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.lr, weight_decay=0.01, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_pace, steps=recipe.steps))
        for step, batch in enumerate(_batches(recipe, tokenizer), start=1):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step, recipe.steps)
    model.eval()
    return model


def _pace(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step."""
    # A model this small learns late and suddenly to use the context, and a rate that falls from
    # early on keeps it from getting there.
    done = (step + 1) / (steps + 1)
    return min(1.0, done / 0.05, (1.0 - done) / 0.2)


def _batches(recipe: Recipe, tokenizer: "BertTokenizer") -> "Iterator[dict[str, torch.Tensor]]":
    """One masked batch a step, of sentences of either domain that are about as long."""
    import torch

    texts = [
        list(sentence.words)
        for domain in DOMAINS
        for sentence in sentences(domain, recipe.sentences, recipe.seed)
    ]
    rows = sorted(tokenizer(texts, is_split_into_words=True)["input_ids"], key=len)
    random = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.steps):
        start = int(torch.randint(max(1, len(rows) - recipe.batch_size + 1), (), generator=random))
        chosen = [torch.tensor(row) for row in rows[start : start + recipe.batch_size]]
        ids = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        yield _masked(ids, recipe.masked, len(tokenizer), random)


def _masked(
    ids: "torch.Tensor", share: float, pieces: int, random: "torch.Generator"
) -> "dict[str, torch.Tensor]":
    """BERT's masking: of the chosen pieces 80 % masked, 10 % random, 10 % kept."""
    import torch

    chance = torch.rand(ids.shape, generator=random)
    # Special tokens are never chosen.
    chance[ids < len(_SPECIAL)] = 1.0
    labels = ids.masked_fill(chance >= share, _IGNORED)
    inputs = ids.masked_fill(chance < 0.8 * share, _SPECIAL.index("[MASK]"))
    noise = torch.randint(len(_SPECIAL), pieces, ids.shape, generator=random)
    inputs = noise.where((chance >= 0.8 * share) & (chance < 0.9 * share), inputs)
    return {"input_ids": inputs, "attention_mask": (ids > 0).long(), "labels": labels}
