"""`compare`: checkpoints and some text in, every measure of every layer out.

Composes the stages: texts become batches, all encoders run on each batch, rows go into moments
as the layers appear, and the measures are solved from the moments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, cast

import pandas as pd
import torch

from bertft import results
from bertft.amounts import require_integers
from bertft.checkpoints import fingerprint
from bertft.compared import Comparison
from bertft.corpora import Data, corpora_of
from bertft.devices import find_device
from bertft.moments import Moments
from bertft.opening import notes_on_truncation, open_sides
from bertft.ops import device_of_sums, dot_precision
from bertft.planning import (
    FINETUNED,
    PRETRAINED,
    Options,
    Pairs,
    known_measures,
    layers_asked,
    sites_asked,
)
from bertft.preparing import prepare
from bertft.progress import Display
from bertft.rows import Grouping, Pieces, RowKind
from bertft.similarity.sides import Ridge
from bertft.solving import INFLATED, ROUND_OFF, Solved, joined, solve
from bertft.streaming import stream
from bertft.traces import inference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bertft.opening import Model


def compare(
    pretrained: "Model",
    finetuned: "Model | Sequence[Model]",
    data: Data | Mapping[str, Data],
    *,
    column: str | Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    rows: RowKind = "words",
    pieces: Pieces = "mean",
    group: Grouping | None = None,
    limit: int | None = None,
    seed: int = 0,
    max_length: int | None = None,
    pairs: Pairs = "same",
    sites: str | Sequence[str] = "output",
    layers: str | int | Sequence[int] | None = None,
    intervals: Literal["jackknife"] | None = None,
    groups: int = 20,
    ridge: Ridge | None = None,
    sample: int = 5000,
    permutations: int = 0,
    memory_gib: float | None = None,
    batch_size: int = 32,
    dtype: str | None = None,
    device: str | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    backend: str | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare two checkpoints layer by layer on the same text, in one streaming pass.

    Memory does not grow with the text: only sums stay, and every measure follows from them.

    Args:
        pretrained: folder, hub name (`NAME@revision` too) or `PreTrainedModel`, with any head.
        finetuned: the same, for same-numbered layers with the same depth; of a truncated model, the
            layers that it has are compared. Several are compared with the base in one pass, in
            which the base runs once, on the rows that all models have.
        data: a file (`.txt`, `.conllu`, `.jsonl`, `.csv`, `.tsv`, `.parquet`, SQuAD `.json`), a
            data set of the hub (`NAME:SPLIT`), an iterable of texts, a data frame, or a mapping of
            names to these; each is a corpus of its own. Premises with hypotheses and questions with
            contexts are pairs.
        column: of data with columns, that of the text, or two for pairs of texts; `text`, or
            `premise` and `hypothesis`, and others, need not be named.
        measures: names from `bertft.similarity.MEASURES` and `SAMPLED`; by default all that the
            data allow, except `rsa_correlation` and those on a sample of rows.
        rows: "words", "tokens" (special ones left out) or "cls", the classification token of each
            text. Words are paired where the models' tokenizers differ.
        pieces: of a word: their "mean", or the "first" or "last" one.
        group: "segment" for a corpus each of special tokens, first and second texts, in one pass.
        limit: rows drawn uniformly from each corpus; all by default.
        seed: of the draws of rows and of permutations.
        max_length: tokens of a text; by default what the models take.
        pairs: layers of one number ("same"), or "all" pairs of a layer of each model.
        sites: where a layer is read, one or more of "output" (entries of `hidden_states`),
            "attention" and "mlp" (what these sublayers of a block add to it).
        layers: numbers of the layers to compare, `[0, 6, 12]` or "0,6,12", all by default: the pass
            ends after the deepest. Or, for an architecture that cannot be read by itself, the path
            of the module list that holds its blocks, "model.decoder.layers", with numbers behind it
            for some of them, "model.decoder.layers:0,6,12".
        intervals: "jackknife" for 95 % intervals that leave out a group of sentences at a time.
        groups: of sentences, at least 5.
        ridge: of measures that invert a scatter matrix; see `bertft.similarity.cca`.
        sample: rows kept for measures that need them, drawn uniformly.
        permutations: orders of rows for p-values of RSA and CKA, on at most 1,000 rows of the
            sample; 0 for none.
        memory_gib: for statistics; by default most of what is available. Groups whose sums do not
            fit are made from rows on disk.
        batch_size: most texts of a batch.
        dtype: "float32" (default), "float64", "bfloat16" or "float16", for models by name.
        device: "cpu", "cuda" or "auto"; by default the CPU, and a model in memory stays put.
        tokenizer: for all models; by default each one's own.
        backend: of `bertft.ops`; by default that of the rows' device.
        progress: print a plan and show a bar.

    Raises:
        FileNotFoundError: no such model or file.
        TypeError: a number of something that is not whole.
        ValueError: anything else that cannot be compared; the message says what to do.

    >>> compare("bert-base-uncased", "./bert-mnli", ["A text."], measures=["rsa"])  # doctest: +SKIP
    """
    display = Display(progress)
    require_integers("compare", batch_size=batch_size)
    if batch_size < 1:
        raise ValueError(f"[compare] batch_size must be at least 1, got {batch_size}; pass more.")
    if intervals not in (None, "jackknife"):
        raise ValueError(
            f"[compare] intervals must be 'jackknife' or None, got {intervals!r}; pass one."
        )
    path, numbers = layers_asked(layers)
    options = Options(
        known_measures(measures),
        rows,
        limit,
        seed,
        max_length,
        pairs,
        groups if intervals is not None else None,
        ridge,
        sample,
        permutations,
        memory_gib,
        sites_asked(sites),
        numbers,
        pieces,
        group,
    )
    corpora = corpora_of(data, column)
    several = finetuned if isinstance(finetuned, (list, tuple)) else [finetuned]
    tuned = cast("list[Model]", list(several))
    sides = open_sides(pretrained, tuned, dtype, tokenizer, options, path)
    cut = notes_on_truncation(sides) if pairs == "same" else []
    for note in cut:
        display.note(note)
    where = find_device(device, "compare") if device is not None else None
    summed_on = device_of_sums((where or side.encoder.device for side in sides.values()), backend)
    passes = [prepare(of, sides, options, summed_on, corpora=len(corpora)) for of in corpora]
    work = [task for tasks in passes for task in tasks]
    del corpora  # only token ids are needed from here on
    started = results.now()
    moments: dict[str, Moments] = {}
    parts: list[Solved] = []
    with inference(*(side.encoder for side in sides.values()), device=where):
        for tasks in passes:
            for note in dict.fromkeys(note for task in tasks for note in task.notes):
                display.note(note)
            gathered = stream(tasks, sides, batch_size, backend, display)
            parts.append(solve(gathered, tasks, sides, display))
            moments |= {task.key: of.moments for task, of in zip(tasks, gathered, strict=True)}
            del gathered  # sums of groups and rows of samples: the next corpus has its own
        device_used = str(sides[PRETRAINED].encoder.device)
    solved = joined(parts)
    told = dict.fromkeys(note for task in work for note in task.notes)
    of_values = _notes_on(solved)
    for note in of_values:
        display.note(note)
    used = backend or ("native" if summed_on.type == "cpu" else "triton")
    provenance = {
        "created": started,
        "versions": results.versions(),
        "models": {
            role: {
                "name": side.name,
                "fingerprint": fingerprint(side.encoder),
                "architecture": type(side.encoder).__name__,
                "dtype": str(side.encoder.dtype).removeprefix("torch."),
                "revision": getattr(side.encoder.config, "_commit_hash", None),
            }
            for role, side in sides.items()
        },
        "corpora": [task.describe() for task in work if task.finetuned == FINETUNED],
        "options": {
            **asdict(options),
            "sites": list(options.sites),
            "layers": list(numbers) if numbers is not None else None,
            "blocks": path,
            "column": column if column is None or isinstance(column, str) else list(column),
            "intervals": intervals,
            "max_length": work[0].max_length,
            "batch_size": batch_size,
            "threads": torch.get_num_threads(),
            "device": device_used,
            "rows_computed_on": str(summed_on)
            if summed_on.type == torch.device(device_used).type
            else f"{summed_on}, copied from {device_used}",
            "backend": used,
            "dot_precision": dot_precision(sides[PRETRAINED].encoder.dtype)
            if used == "triton"
            else None,
        },
        "diagnostics": solved.diagnostics,
        "notes": [*cut, *told, *of_values],
    }
    return Comparison(solved.table, provenance, moments, solved.geometry, solved.replicates)


def _notes_on(solved: Solved) -> list[str]:
    """What the table says beside its values, in a few lines."""
    notes = []
    both = pd.concat([solved.table, solved.geometry])
    for keys, of_measure in both.groupby(["corpus", "measure"], sort=False):
        where, name = keys
        missing = of_measure[of_measure["value"].isna()]
        if len(missing):
            notes.append(
                f"{where}: {len(missing)} of {len(of_measure)} values of {name} are missing; "
                f"the first because {missing['note'].iloc[0]}"
            )
    for corpus, rows in solved.table.groupby("corpus", sort=False):
        vague = rows[rows["note"].str.contains(ROUND_OFF)]
        if len(vague):
            notes.append(
                f"{corpus}: {len(vague)} of {len(rows)} values are of layers that vary by "
                f"{ROUND_OFF}, and say nothing of the text; the note of each says which layer."
            )
        inflated = rows[rows["note"].str.contains(INFLATED)]
        if len(inflated):
            by_chance = inflated.groupby("measure", sort=False)["chance"].median()
            given = ", ".join(f"{name} {chance:.2f}" for name, chance in by_chance.items())
            notes.append(
                f"{corpus}: inflated, since unrelated rows, as many and as varied, would give some "
                f"{given} (medians); pass more rows, or read cka_debiased."
            )
    return notes
