"""`bertft probe`."""

from pathlib import Path
from typing import Annotated

import typer

from bertft.cli.printing import say, show_probing, typed


def probe(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Folders or hub names; the base first.")
    ],
    task: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FOLDER",
            help="With train.jsonl and dev.jsonl; for pos, arcs and structural with "
            "*train*.conllu and *dev*.conllu. Repeat it for more tasks.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the table, figure and report.")],
    layers: Annotated[
        str, typer.Option(help="all, mix, cumulative, lexical or numbers, joined by commas.")
    ] = "all,mix,lexical",
    probe: Annotated[str, typer.Option(help="linear, mlp or edge.")] = "linear",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of structural probes; 64 by default.")
    ] = None,
    punctuation: Annotated[
        str | None,
        typer.Option(
            help="What edges and roots of trees are not scored on: upos (PUNCT, by default) or "
            "xpos (Penn Treebank tags)."
        ),
    ] = None,
    controls: Annotated[
        str, typer.Option(help="randomized, control-task or both, joined by a comma.")
    ] = "",
    code_length: Annotated[
        bool, typer.Option("--code-length", help="Measure the online code length too.")
    ] = False,
    symmetric: Annotated[
        str, typer.Option(help="Tasks whose two spans share a projection (edge), joined by commas.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Probes of every kind, from seed 0.")] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Training sentences to draw; all by default.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="By default 40 for structural, 30 for edge, 20 for others, or more. Linear probes "
            "of single layers are solved and ignore it.",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="By default 1e-4 for edge, 1e-3 for others. Linear probes of single layers are "
            "solved and ignore it."
        ),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a text; by default what the models take.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most sentences of a pass.")] = 32,
    features: Annotated[
        Path | None, typer.Option(help="Folder to keep features in; by default they go.")
    ] = None,
    features_dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    memory: Annotated[float, typer.Option(min=0, help="GiB of features in memory.")] = 4.0,
    device: Annotated[str, typer.Option(help="Of encoders and probes: cpu, cuda or auto.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
) -> None:
    """Probe layers of one or several encoders for what they know of some tasks."""
    from bertft import results
    from bertft.probes import probe as run

    results.require_free(out, overwrite=overwrite)
    probing = run(
        models,
        _folders(task),
        layers=layers,
        probe=probe,
        rank=rank,
        punctuation=punctuation,
        controls=[name.strip() for name in controls.split(",") if name.strip()],
        code_length=code_length,
        symmetric=symmetric,
        seeds=seeds,
        limit=limit,
        epochs=epochs,
        lr=lr,
        max_length=max_length,
        batch_size=batch_size,
        features=features,
        features_dtype=features_dtype,
        memory_gib=memory,
        device=device,
        progress=True,
    )
    probing.provenance["command"] = typed()
    probing.save(out, overwrite=overwrite)
    show_probing(probing)
    say(f"report: {out / 'report.html'}")


def _folders(tasks: list[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for task in tasks:
        name, equals, folder = task.partition("=")
        if not equals or not folder or name in folders:
            raise ValueError(
                f"[probe] task must be NAME=FOLDER, each name once, got {task!r}; write it as "
                "pos=data/ud_english_ewt."
            )
        folders[name] = folder
    return folders
