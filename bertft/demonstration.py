"""`bertft demo`: the main job on the embedded default, in the words of its own numbers.

A tiny BERT is pretrained by masked words on a small grammar of English, fine-tuned to tag parts of
speech in one of the grammar's two domains, and compared with itself on both.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bertft.compared import Comparison
from bertft.comparison import compare
from bertft.corpora.conllu import write_trees
from bertft.corpora.miniature import DOMAINS, dependency_trees, sentences
from bertft.corpora.miniature.pretraining import pretrained_miniature
from bertft.finetuning import finetune
from bertft.progress import Display

# Tiny models take larger steps than the 2e-5 to 5e-5 of full-size ones.
TUNING_RATE = 5e-4
TRAINING_SENTENCES = 1500
COMPARED_SENTENCES = 400


def demo(*, seed: int = 0, progress: bool = False) -> Comparison:
    """Pretrain (once), fine-tune on one domain, and compare on both.

    Both models stay in the user's cache folder; the table has their paths.

    Args:
        seed: of the sentences and of the fine-tuning.
        progress: print what happens, with bars.
    """
    display = Display(progress)
    base = _pretrained(display)
    inside, outside = DOMAINS
    tuned = base.with_name(f"{base.name}-{inside}-tagger-{seed}")
    shutil.rmtree(tuned, ignore_errors=True)
    display.note(f"fine-tuning it to tag parts of speech in {inside!r} ...")
    with tempfile.TemporaryDirectory(prefix="bertft-") as folder:
        train, dev = Path(folder) / "train.conllu", Path(folder) / "dev.conllu"
        for i, (file, n) in enumerate(((train, TRAINING_SENTENCES), (dev, 300)), start=1):
            write_trees(dependency_trees(sentences(inside, n, 3 * seed + i)), file)
        tagging = finetune(
            "tagging", base, train, dev, tuned, lr=TUNING_RATE, seed=seed, progress=progress
        )
    display.note(f"on held-out sentences, {tagging.headline}")
    held_out = {
        domain: [s.words for s in sentences(domain, COMPARED_SENTENCES, 3 * seed + 3)]
        for domain in (inside, outside)
    }
    comparison = compare(base, tuned, held_out, seed=seed, progress=progress)
    comparison.provenance["notes"] += outcome(comparison, inside, outside)
    return comparison


def outcome(comparison: Comparison, inside: str, outside: str) -> list[str]:
    """Return what the numbers say of two expectations: change at the top, and in the domain."""
    rsa = {domain: comparison.summary(domain)["rsa"] for domain in (inside, outside)}
    return [
        *(_towards_the_top(domain, list(values)) for domain, values in rsa.items()),
        _across_domains(inside, float(rsa[inside].iloc[-1]), outside, float(rsa[outside].iloc[-1])),
    ]


def _towards_the_top(domain: str, rsa: Sequence[float]) -> str:
    least = min(range(len(rsa)), key=rsa.__getitem__)
    ends = f"from {rsa[0]:.3f} at layer 0 to {rsa[-1]:.3f} at layer {len(rsa) - 1}"
    if rsa[-1] >= rsa[0]:
        return f"On {domain!r} RSA does not fall towards the top: it goes {ends}."
    if least != len(rsa) - 1:
        return f"On {domain!r} RSA falls {ends}, but is lowest at layer {least} ({rsa[least]:.3f})."
    return f"On {domain!r} RSA falls towards the top, {ends}."


def _across_domains(inside: str, own: float, outside: str, other: float) -> str:
    values = f"({own:.3f} on {inside!r}, {other:.3f} on {outside!r})"
    if own < other:
        return f"The top layer changed more inside the fine-tuning domain than outside {values}."
    return f"The top layer did not change more inside the fine-tuning domain than outside {values}."


def _pretrained(display: Display) -> Path:
    display.note("pretraining a tiny BERT on the miniature grammar (kept in the cache) ...")
    with display.bar("pretraining", 1, "steps") as bar:
        return pretrained_miniature(progress=bar.follow)
