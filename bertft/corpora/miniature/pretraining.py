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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bertft.corpora.miniature.grammar import DOMAINS, paradigms, sentences

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, BertTokenizer

_FORMAT = 1
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """How the miniature is built and pretrained.

    Args:
        layers: Transformer layers.
        width: Hidden size, a multiple of `heads`.
        heads: Attention heads of a layer.
        intermediate: Width of the feed-forward part.
        positions: The longest input, in pieces.
        dropout: Share of hidden values and of attention dropped in training.
        sentences: Training sentences of each domain.
        steps: Optimizer steps.
        batch_size: Sentences a step.
        lr: Peak learning rate; it rises over the first steps and falls to zero over the last fifth.
        masked: Share of the pieces to predict.
        seed: Seed of the sentences, the initial weights and the masks.
    """

    layers: int = 6
    width: int = 96
    heads: int = 4
    intermediate: int = 192
    positions: int = 128
    dropout: float = 0.0
    sentences: int = 8000
    steps: int = 1500
    batch_size: int = 32
    lr: float = 1.5e-3
    masked: float = 0.3
    seed: int = 20


def vocabulary() -> list[str]:
    """The pieces of the miniature's WordPiece tokenizer, in the order of their ids.

    The stem of a lexeme is what its forms share (`slic` of slice, slices, sliced, slicing); what
    is left of each form is a suffix piece. The characters of printable ASCII follow, so any such
    text has pieces.
    """
    stems: set[str] = set()
    suffixes: set[str] = set()
    for forms in paradigms():
        stem = os.path.commonprefix(forms)
        stems.add(stem)
        suffixes |= {"##" + form.removeprefix(stem) for form in forms if form != stem}
    characters = sorted(set(string.digits + string.ascii_lowercase + string.punctuation))
    single = {*characters, *("##" + character for character in characters)}
    return [*_SPECIAL, *sorted(single), *sorted(stems - single), *sorted(suffixes - single)]


def pretrained_miniature(
    recipe: Recipe = Recipe(),
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The folder of the pretrained miniature, which the first call makes in half a minute.

    The folder's name carries a hash of the recipe, the grammar and the vocabulary, so a change
    of any of them trains anew. It appears whole or not at all, however many processes ask for it.
    Neither the random state nor the threads of torch are touched.

    Args:
        recipe: The settings of the model and of its training.
        cache: Where the folder lies; by default `bertft` in `$XDG_CACHE_HOME` or `~/.cache`.
        progress: Called with (steps done, steps in all) after every step of the training.

    Raises:
        ValueError: If a number of the recipe is out of range.
    """
    _check(recipe)
    cache = _default_cache() if cache is None else Path(cache)
    folder = cache / f"miniature-{_key(recipe)}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".miniature-", dir=cache) as temporary:
        made = Path(temporary) / folder.name
        tokenizer = _tokenizer(recipe)
        model = _pretrain(recipe, tokenizer, progress)
        with _quiet():
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster: a folder that is not empty cannot be replaced.
            if not folder.is_dir():
                raise
    return folder


def _check(recipe: Recipe) -> None: ...


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "bertft"


def _key(recipe: Recipe) -> str:
    """Hash of all that decides the weights: the recipe, the grammar's output, the vocabulary."""
    samples = [sentences(domain, 200, recipe.seed) for domain in DOMAINS]
    parts = [_FORMAT, asdict(recipe), vocabulary(), [[s.words for s in each] for each in samples]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers, which shows one for every save."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


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
        pad_token_id=0,
        # The default, 0.02, suits a width of 768 and starves the gradients of a narrow model.
        initializer_range=0.05,
    )
    return BertForMaskedLM(config)


def _pretrain(
    recipe: Recipe, tokenizer: "BertTokenizer", progress: Callable[[int, int], None] | None
) -> "BertForMaskedLM":
    import torch

    # torch.manual_seed would also seed the caller's GPUs.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.random.default_generator.manual_seed(recipe.seed)
        model = _model(recipe, len(tokenizer)).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.lr, weight_decay=0.01, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            recipe.lr,
            total_steps=recipe.steps + 1,
            pct_start=0.1,
            anneal_strategy="linear",
        )
        for step, batch in enumerate(_batches(recipe, tokenizer), start=1):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if os.environ.get("DBG") and (step % 50 == 0 or step == 1):
                print(step, loss.item(), flush=True)
            if progress is not None:
                progress(step, recipe.steps)
    return model.eval()


def _pace(step: int, steps: int) -> float:
    """The share of the peak learning rate.

    It stays at its peak until four fifths: this small, the model learns to use context late and
    suddenly, and a rate that falls from the start keeps it from getting there.
    """
    done = (step + 1) / (steps + 1)
    return min(1.0, done / 0.05, (1.0 - done) / 0.2)


def _batches(recipe: Recipe, tokenizer: "BertTokenizer") -> "Iterator[dict[str, torch.Tensor]]":
    """One masked batch a step: sentences of both domains, of about the same length."""
    import torch

    texts = [
        s.words for domain in DOMAINS for s in sentences(domain, recipe.sentences, recipe.seed)
    ]
    rows = tokenizer([list(words) for words in texts], is_split_into_words=True)["input_ids"]
    rows.sort(key=len)
    random = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.steps):
        start = int(torch.randint(max(1, len(rows) - recipe.batch_size + 1), (), generator=random))
        chosen = rows[start : start + recipe.batch_size]
        ids = torch.zeros(len(chosen), len(chosen[-1]), dtype=torch.int64)
        for line, row in zip(ids, chosen, strict=True):
            line[: len(row)] = torch.tensor(row)
        yield _masked(ids, recipe.masked, len(tokenizer), random)


def _masked(
    ids: "torch.Tensor", share: float, pieces: int, random: "torch.Generator"
) -> "dict[str, torch.Tensor]":
    """BERT's masking: of the chosen pieces 80 % masked, 10 % random, 10 % kept."""
    import torch

    chance = torch.rand(ids.shape, generator=random)
    ordinary = ids >= len(_SPECIAL)
    labels = ids.where(ordinary & (chance < share), torch.tensor(_IGNORED))
    inputs = ids.masked_fill(ordinary & (chance < 0.8 * share), _SPECIAL.index("[MASK]"))
    noise = torch.randint(len(_SPECIAL), pieces, ids.shape, generator=random)
    inputs = noise.where(ordinary & (chance >= 0.8 * share) & (chance < 0.9 * share), inputs)
    return {"input_ids": inputs, "attention_mask": (ids > 0).long(), "labels": labels}
