"""`probe`: what every layer of one or several encoders knows of a task, read by small classifiers.

Composes the stages: a task's spans become rows, one pass captures their features for all models,
and a bank for each layer trains the probes of all seeds and controls together.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from bertft import results
from bertft.amounts import require_integers
from bertft.assigning import Asked, assign
from bertft.checkpoints import fingerprint
from bertft.devices import find_device
from bertft.files import write_text
from bertft.probing.assignments import Row
from bertft.probing.differences import DIFFERENCES, differences, missing_intervals
from bertft.probing.families import Training
from bertft.probing.options import Task, Wanted, require_use, seeds_of, symmetric_of, tasks_of
from bertft.probing.scores import Scored
from bertft.probing.structural_assignments import StructuralAssignment, StructuralTraining
from bertft.probing.tasks import EdgeTask
from bertft.progress import Display
from bertft.subjects import (
    CONTROL_TASK,
    RANDOMIZED,
    by_tokens,
    captured,
    check_amounts,
    controls_of,
    layers_for,
    open_subjects,
    probe_subject,
    require_stores,
    store_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICTURES = "trees.json"
ABSENT = {"value": "", "low": "", "high": ""}
COLUMNS = ("model", "task", "probe", "layer", "seed", "metric", "value", "low", "high", "n")


class Probing:
    """What probes found, with what it took to get there.

    Attributes:
        table: tidy pandas table with the columns `model, task, probe, layer, seed, metric, value,
            low, high, n`; `layer` is a number, "mix", "cumulative-3", "lexical" or "chain" (no
            model, beside structural probes), as text; `low` and `high` are missing where only one
            dev sentence counts.
        differences: the same for each model beside the first one, over seeds, with the columns
            `model, base, task, probe, layer, metric, value, low, high, n_seeds, n`.
        provenance: models, tasks, options, versions and notes, as JSON types.
        pictures: a sentence as the structural probes of each model see it (`report.trees`).
    """

    def __init__(
        self,
        table: pd.DataFrame,
        differences: pd.DataFrame,
        provenance: dict[str, Any],
        pictures: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.table = table
        self.differences = differences
        self.provenance = provenance
        self.pictures = list(pictures)

    @property
    def summary(self) -> pd.DataFrame:
        """A row for each task, metric, and model or control: means over seeds and differences."""
        from bertft.report.probing import summarize

        return summarize(self.table, self.differences)

    def plot(self) -> "Figure":
        """Return a figure with a panel for each score of a task by layer, a line for each model."""
        from bertft.report.probing import probe_figure

        return probe_figure(self.table)

    def save(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write table, differences, provenance, figure and report to a folder, whole or not at all.

        Raises:
            FileExistsError: the folder holds another run and `overwrite` is not set.
        """

        def write(folder: Path) -> None:
            self.differences.to_csv(folder / "differences.csv", index=False)
            if self.pictures:
                write_text(folder / PICTURES, json.dumps(self.pictures, ensure_ascii=False))
            self.write_report(folder)

        results.save_run(Path(out), self.table, self.provenance, write, overwrite=overwrite)

    @classmethod
    def load(cls, out: str | os.PathLike[str]) -> "Probing":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no whole run.
            ValueError: its files are damaged.
        """
        table, provenance = results.load_run(out)
        path = Path(out) / "differences.csv"
        try:
            # Names stay text, whatever they look like: a task may be called "NA", a layer is "0".
            found = Path(out) / PICTURES
            pictures = json.loads(found.read_text("utf-8")) if found.is_file() else []
            differences = pd.read_csv(
                path,
                usecols=list(DIFFERENCES),
                dtype=DIFFERENCES,
                keep_default_na=False,
                na_values=ABSENT,
            )
        except (ValueError, OSError) as error:
            raise ValueError(
                f"[load] files of a run must be whole, got {str(path)!r} ({error}); run it again."
            ) from error
        return cls(table, differences, provenance, pictures)

    def write_report(self, out: str | os.PathLike[str]) -> Path:
        """Write `figure.svg` and `report.html` again, and return the path of the report.

        Structural probes have `trees.svg` and `distances.svg` too.
        """
        from bertft.report.figures import svg_text
        from bertft.report.probing import render_probes
        from bertft.report.trees import distance_figure, tree_figure

        svg, report = svg_text(self.plot()), Path(out) / "report.html"
        write_text(Path(out) / "figure.svg", svg)
        drawn = {}
        if self.pictures:
            figures = {"trees": tree_figure, "distances": distance_figure}
            drawn = {name: svg_text(draw(self.pictures)) for name, draw in figures.items()}
        for name, text in drawn.items():
            write_text(Path(out) / f"{name}.svg", text)
        page = render_probes(self.table, self.provenance, self.differences, svg, drawn)
        write_text(report, page)
        return report

    def _repr_html_(self) -> str:
        return str(self.summary.to_html(index=False))

    def __repr__(self) -> str:
        tasks, models = (", ".join(self.table[name].unique()) for name in ("task", "model"))
        return f"Probing({tasks} on {models}: {self.table['layer'].nunique()} layers)"


def probe(
    models: "str | Path | PreTrainedModel | Sequence[str | Path | PreTrainedModel]",
    tasks: Mapping[str, str | os.PathLike[str] | Task],
    *,
    layers: int | str | Sequence[str | int] = "all,mix,lexical",
    probe: str = "linear",
    rank: int | None = None,
    punctuation: str | None = None,
    controls: str | Sequence[str] = (),
    code_length: bool = False,
    symmetric: str | Sequence[str] = (),
    seeds: int | Sequence[int] = 1,
    limit: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    features: str | os.PathLike[str] | None = None,
    features_dtype: str = "float32",
    memory_gib: float = 4.0,
    device: str | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    progress: bool = False,
) -> Probing:
    """Probe layers of one or several encoders for what they know of some tasks.

    Each model runs once over each task's sentences. All probes of a layer, of all seeds and
    controls, train together.

    Args:
        models: folders, hub names or models, the first of them the base of the differences.
        tasks: a folder for each name (`EdgeTask.read`; `StructuralTask.read` for "structural"), or
            the task itself.
        layers: "all" or numbers 0..L, "mix" (of all layers, learned), "cumulative" (of layers
            0..l, for each l), "lexical" (layer 0, with its position embeddings).
        probe: "linear", "mlp" or "edge", of labels; trees have distance and depth probes.
        rank: of the maps of those, 64 by default.
        punctuation: words that edges and roots of trees are not scored on: "upos" (by default) for
            those tagged PUNCT, "xpos" for those with a Penn Treebank tag of punctuation.
        controls: "randomized" (the base with every weight redrawn) and "control-task" (labels that
            only a word's identity tells, for the selectivity).
        code_length: measure the online code length of the labels too.
        symmetric: tasks whose two spans share a projection and an attention; edge probes only.
        seeds: how many, from 0, or which: of initial weights, dropout and control labels.
        limit: most training sentences of a task that is read from a folder.
        epochs: most passes over the training targets; by default 30 for edge, 40 for structural,
            20 for others, and more where edge and others make fewer than 3,000 or 2,000 steps.
        lr: Adam's rate; by default 1e-4 for edge, 1e-3 for others. Linear probes of one layer are
            solved (L-BFGS), whatever `epochs` and `lr` are.
        max_length: tokens of a sentence; by default what the models take.
        batch_size: most sentences at a time when features are captured.
        features: folder to keep features in, for another run; by default they are not kept. Models
            with another tokenizer than the first have a folder `tokenizer-2` in it, and so on.
        features_dtype: "float32", "bfloat16" or "float16".
        memory_gib: features that need more than this are kept on disk while they are needed.
        device: "cpu", "cuda" or "auto"; by default the CPU, and a model in memory stays put.
        tokenizer: for all models; by default each one's own.
        progress: print a plan and show bars.

    Raises:
        FileNotFoundError: no such model or file.
        ValueError: anything else that cannot be probed; the message says what to do.

    Reference: Tenney et al. 2019; Hewitt & Liang 2019; Voita & Titov 2020; Hewitt &
    Manning 2019.
    """
    display = Display(progress)
    amounts = {"limit": limit, "epochs": epochs, "max_length": max_length}
    require_integers("probe", **amounts, batch_size=batch_size)
    training, wanted = Training.of(probe, epochs, lr), Wanted.of(layers)
    structural = StructuralTraining.of(64 if rank is None else rank, epochs, lr)
    chosen = seeds_of(seeds)
    named = controls_of(controls)
    check_amounts(batch_size, memory_gib, features_dtype)
    subjects = open_subjects(models, randomized=RANDOMIZED in named, tokenizer=tokenizer)
    groups = by_tokens(subjects)
    for name, subject in subjects.items():
        wanted.captured(name, subject.blocks.depth)
    read = tasks_of(tasks, limit, punctuation)
    require_use(read, probe, rank, punctuation)
    alike = symmetric_of(symmetric, read, probe)
    where = find_device(device, "probe") if device is not None else None
    bench = where or torch.device("cpu")
    started = results.now()
    base = next(iter(subjects))
    asked = Asked(
        wanted,
        training,
        structural,
        alike,
        chosen,
        max_length,
        CONTROL_TASK in named,
        code_length,
        bench,
    )
    # All of them before the first is trained, so that a bad task does not end a long run.
    works = [assign(task, asked, groups) for task in read]
    require_stores(works, groups, wanted, features, features_dtype)
    found: list[Row] = []
    tallies: dict[tuple[str, ...], Scored] = {}
    notes: list[str] = []
    pictures: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    solved = probe == "linear" and any(isinstance(task, EdgeTask) for task in read)
    if solved and (epochs is not None or lr is not None):
        notes.append("Linear probes of single layers are solved: epochs and lr do not change them.")
        display.note(notes[-1])
    for of_task in works:
        own: dict[str, list[Row]] = {}
        for number, (work, sides) in enumerate(zip(of_task, groups, strict=True), start=1):
            whose = f" ({', '.join(sides)})" if len(groups) > 1 else ""
            for note in work.notes:
                notes.append(note + whose)
                display.note(notes[-1])
            single = layers_for(work, wanted)
            with captured(
                work,
                sides,
                single,
                store_of(features, work, number),
                features_dtype,
                memory_gib,
                batch_size,
                where,
                display,
            ) as both:
                for name, subject in sides.items():
                    began = time.perf_counter()
                    of_model = probe_subject(work, name, subject, single, both, display)
                    own[name] = of_model.rows
                    if isinstance(work, StructuralAssignment) and name == base:
                        own[name] += [{"model": name, **row} for row in work.chain()]
                    key = f"{work.task.name}, {name}"
                    seconds[key] = round(time.perf_counter() - began, 1)
                    notes += [note + f" ({name})" for note in of_model.notes]
                    pictures += [of_model.picture] if of_model.picture else []
                    for (kind, layer), counts in of_model.counts.items():
                        tallies[name, work.task.name, kind, layer] = counts
        found += [row for name in subjects for row in own[name]]
    table = pd.DataFrame(found, columns=list(COLUMNS))
    notes += missing_intervals(table)
    provenance = {
        "kind": "probe",
        "created": started,
        "versions": results.versions(),
        "models": {
            name: {
                "fingerprint": fingerprint(subject.encoder),
                "architecture": type(subject.encoder).__name__,
            }
            for name, subject in subjects.items()
        },
        "tasks": [work.describe() for of_task in works for work in of_task],
        "options": {
            "layers": list(wanted.names),
            "controls": named,
            "code_length": code_length,
            "symmetric": alike,
            "seeds": chosen,
            "limit": limit,
            "max_length": max_length,
            "batch_size": batch_size,
            "features_dtype": features_dtype,
            "device": str(bench),
            "threads": torch.get_num_threads(),
        },
        "training_s": seconds,
        "notes": notes,
    }
    return Probing(table, differences(table, tallies, list(subjects)), provenance, pictures)
