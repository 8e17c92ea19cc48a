"""`compare`: two checkpoints and some text in, every measure of every layer out.

Composes the stages: texts become batches, both encoders run on each batch, rows go into moments
as the layers appear, and the measures are solved from the moments.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from bertft import results
from bertft.checkpoints import DTYPES, Checkpoint, fingerprint, load_tokenizer
from bertft.corpora import Data, corpora_of
from bertft.devices import find_device
from bertft.models import inference
from bertft.moments import Moments, load_moments, save_moments
from bertft.planning import known_measures, prepare
from bertft.progress import Display
from bertft.rows import RowKind
from bertft.solving import solve
from bertft.streaming import FINETUNED, PRETRAINED, stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Comparison:
    """Every measure of every pair of layers, with what it took to get there.

    Attributes:
        table: tidy pandas table with the columns `pretrained, finetuned, corpus,
            pretrained_layer, finetuned_layer, measure, value, low, high, n`.
        provenance: models, corpora, options, versions, diagnostics and notes, as JSON types.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        provenance: dict[str, Any],
        moments: Mapping[str, Moments] | Path,
    ) -> None:
        self.table = table
        self.provenance = provenance
        self._moments = moments

    @property
    def moments(self) -> Mapping[str, Moments]:
        """The statistics of each corpus, with sides "pretrained.0", "finetuned.0", ..."""
        if isinstance(self._moments, Path):
            self._moments = load_moments(self._moments)
        return self._moments

    def plot(self) -> "Figure":
        """Return a figure with a line per measure over layers and a column per corpus."""
        from bertft.report.figures import layer_figure

        return layer_figure(self.table)

    def summary(self, corpus: str | None = None) -> pd.DataFrame:
        """Return layers by measures for a corpus (the first by default)."""
        from bertft.report.html import summary_table

        return summary_table(self.table, corpus or self.table["corpus"].iloc[0])

    def save(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write table, provenance, moments, figure and report to a folder, whole or not at all.

        Raises:
            FileExistsError: the folder holds another run and `overwrite` is not set.
        """
        moments = self.moments

        def write(folder: Path) -> None:
            save_moments(folder / "moments.safetensors", moments)
            self.write_report(folder)

        results.save_run(Path(out), self.table, self.provenance, write, overwrite=overwrite)

    @classmethod
    def load(cls, out: str | os.PathLike[str]) -> "Comparison":
        """Read what `save` wrote; the moments are read when they are first asked for.

        Raises:
            FileNotFoundError: the folder holds no whole run.
            ValueError: its files are damaged.
        """
        table, provenance = results.load_run(out)
        return cls(table, provenance, Path(out) / "moments.safetensors")

    def write_report(self, out: str | os.PathLike[str]) -> Path:
        """Write `figure.svg` and `report.html` again, and return the path of the report."""
        from bertft.files import write_text
        from bertft.report.figures import svg_text
        from bertft.report.html import render

        svg, report = svg_text(self.plot()), Path(out) / "report.html"
        write_text(Path(out) / "figure.svg", svg)
        write_text(report, render(self.table, self.provenance, svg))
        return report

    def _repr_html_(self) -> str:
        tables = []
        for corpus in self.table["corpus"].unique():
            frame = self.summary(corpus).style.format(precision=4, na_rep="")
            tables.append(frame.set_caption(str(corpus)).to_html())
        return "\n".join(tables)

    def __repr__(self) -> str:
        measures = ", ".join(self.table["measure"].unique())
        corpora = ", ".join(self.table["corpus"].unique())
        layers = self.table["pretrained_layer"].nunique()
        return f"Comparison({layers} layers on {corpora}: {measures})"


def compare(
    pretrained: "str | Path | PreTrainedModel",
    finetuned: "str | Path | PreTrainedModel",
    data: Data | Mapping[str, Data],
    *,
    measures: Sequence[str] | None = None,
    rows: RowKind = "words",
    limit: int | None = None,
    seed: int = 0,
    max_length: int | None = None,
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
        finetuned: the same, with the same vocabulary and depth.
        data: a file (`.txt`, `.conllu`, `.jsonl`), an iterable of texts, or a mapping of names to
            these; each is a corpus of its own.
        measures: names from `bertft.similarity.MEASURES`; by default all that the data allow,
            except `rsa_correlation`.
        rows: "words" (the mean of a word's pieces) or "tokens".
        limit: rows drawn uniformly from each corpus; all by default.
        seed: of the draw.
        max_length: tokens of a text; by default what the models take.
        batch_size: most texts of a batch.
        dtype: "float32" (default), "float64", "bfloat16" or "float16", for models by name.
        device: "cpu", "cuda" or "auto"; by default the CPU, and a model in memory stays put.
        tokenizer: for both models; by default each one's own.
        backend: of `bertft.ops`; by default that of the rows' device.
        progress: print a plan and show a bar.

    Raises:
        FileNotFoundError: no such model or file.
        ValueError: anything else that cannot be compared; the message says what to do.

    >>> compare("bert-base-uncased", "./bert-mnli", ["A text."], measures=["rsa"])  # doctest: +SKIP
    """
    display = Display(progress)
    _require_counts(batch_size=(batch_size, 1), limit=(limit, 2), seed=(seed, 0))
    named = known_measures(measures)
    corpora = corpora_of(data)
    sides = _open_sides(pretrained, finetuned, dtype, tokenizer)
    work = [prepare(corpus, sides, named, rows, limit, seed, max_length) for corpus in corpora]
    del corpora  # only token ids are needed from here on
    where = find_device(device, "compare") if device is not None else None
    started = results.now()
    moments = {}
    with inference(*(side.encoder for side in sides.values()), device=where):
        for task in work:
            for note in task.notes:
                display.note(note)
            moments[task.name] = stream(task, sides, batch_size, backend, display)
        device_used = str(sides[PRETRAINED].encoder.device)
    table, diagnostics = solve(moments, {t.name: t.measures for t in work}, sides, display)
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
        "corpora": [task.describe() for task in work],
        "options": {
            "measures": named,
            "rows": rows,
            "limit": limit,
            "seed": seed,
            "max_length": work[0].max_length,
            "batch_size": batch_size,
            "threads": torch.get_num_threads(),
            "device": device_used,
            "rows_computed_on": "cpu"
            if device_used == "cpu"
            else f"cpu, copied from {device_used}",
            "backend": backend or "native",
        },
        "diagnostics": diagnostics,
        "notes": [note for task in work for note in task.notes],
    }
    return Comparison(table, provenance, moments)


def _require_counts(**counts: tuple[int | None, int]) -> None:
    for name, (count, least) in counts.items():
        if count is not None and count < least:
            raise ValueError(f"[compare] {name} must be at least {least}, got {count}; pass more.")


def _open_sides(
    pretrained: "str | Path | PreTrainedModel",
    finetuned: "str | Path | PreTrainedModel",
    dtype: str | None,
    tokenizer: "PreTrainedTokenizerBase | None",
) -> dict[str, Checkpoint]:
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(
            f"[compare] dtype must be one of {', '.join(DTYPES)}, got {dtype!r}; pass its name."
        )
    wanted = DTYPES[dtype] if dtype is not None else None
    a = Checkpoint.open(pretrained, wanted, tokenizer or _borrowed(pretrained, finetuned))
    b = Checkpoint.open(finetuned, wanted, tokenizer or _borrowed(finetuned, pretrained))
    sides = {PRETRAINED: a, FINETUNED: b}
    if a.blocks.depth != b.blocks.depth:
        raise ValueError(
            f"[compare] models must have the same depth, got {a.blocks.depth} layers in {a.name!r} "
            f"and {b.blocks.depth} in {b.name!r}; compare models of one architecture."
        )
    if len({side.encoder.dtype == torch.float64 for side in (a, b)}) > 1:
        raise ValueError(
            f"[compare] models must both be float64 or neither, got {a.encoder.dtype} and "
            f"{b.encoder.dtype}; convert one."
        )
    return sides


def _borrowed(
    model: "str | Path | PreTrainedModel", other: "str | Path | PreTrainedModel"
) -> "PreTrainedTokenizerBase | None":
    """The other model's tokenizer, for a model in memory that was loaded from nowhere."""

    def home(of: "str | Path | PreTrainedModel") -> str:
        return str(of) if isinstance(of, (str, Path)) else str(getattr(of, "name_or_path", ""))

    return load_tokenizer(home(other)) if not home(model) and home(other) else None
