"""`bertft compare`, `bertft report` and `bertft demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bertft.cli.printing import say, show_ablation, show_comparison, show_probing, show_table, typed

if TYPE_CHECKING:
    from typing import Literal

    from bertft.planning import Pairs
    from bertft.rows import Grouping, Pieces, RowKind
    from bertft.similarity.sides import Ridge


def compare(
    pretrained: Annotated[str, typer.Argument(help="Folder or hub name (NAME@revision too).")],
    finetuned: Annotated[
        list[str],
        typer.Argument(help="The same model after fine-tuning; several share one pass."),
    ],
    data: Annotated[
        list[Path],
        typer.Option(
            help="A .txt, .conllu, .jsonl, .csv, .tsv, .parquet or SQuAD .json file, a data set "
            "(NAME:SPLIT), or - for standard input, a text per line; repeat it for more corpora."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the table, figure and report.")],
    column: Annotated[
        str | None, typer.Option(help="With the text, or two with pairs: premise,hypothesis.")
    ] = None,
    measures: Annotated[
        str | None, typer.Option(help="Names, joined by commas; by default all that fit.")
    ] = None,
    rows: Annotated[
        str, typer.Option(help="words, tokens, or cls: the classification token.")
    ] = "words",
    pieces: Annotated[str, typer.Option(help="Of a word: their mean, or first or last.")] = "mean",
    group: Annotated[
        str | None, typer.Option(help="segment: a corpus of special tokens and each text of pairs.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Rows drawn from each corpus; all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a text; by default what the models take.")
    ] = None,
    pairs: Annotated[
        str, typer.Option(help="same: layers of one number; all: every pair of layers.")
    ] = "same",
    sites: Annotated[
        str, typer.Option(help="Of a layer: output, attention, mlp; joined by commas.")
    ] = "output",
    layers: Annotated[
        str | None,
        typer.Option(
            help="Numbers, 0,6,12; the path of the blocks' list, decoder.layers; or both, "
            "decoder.layers:0,6,12."
        ),
    ] = None,
    intervals: Annotated[
        str | None, typer.Option(help="jackknife: 95 %, leaving out groups of sentences.")
    ] = None,
    groups: Annotated[int, typer.Option(min=5, help="Of sentences, for intervals.")] = 20,
    ridge: Annotated[
        str | None, typer.Option(help="Of CCA and regression: a share of the mean, or ledoit-wolf.")
    ] = None,
    sample: Annotated[
        int, typer.Option(min=4, help="Rows kept for measures that need rows.")
    ] = 5000,
    permutations: Annotated[
        int, typer.Option(min=0, help="For p-values of rsa and cka on 1,000 rows, 999 say.")
    ] = 0,
    memory: Annotated[
        float | None, typer.Option(help="GiB for statistics; by default most of what is there.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most texts of a batch.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in --out.")] = False,
) -> None:
    """Compare two checkpoints layer by layer on the same text."""
    from bertft import results
    from bertft.comparison import compare as compare_models

    results.require_free(out, overwrite=overwrite)
    comparison = compare_models(
        pretrained,
        finetuned,
        list(data),
        column=column,
        measures=[name.strip() for name in measures.split(",")] if measures is not None else None,
        rows=cast("RowKind", rows),
        pieces=cast("Pieces", pieces),
        group=cast("Grouping | None", group),
        limit=limit,
        seed=seed,
        max_length=max_length,
        pairs=cast("Pairs", pairs),
        sites=sites,
        layers=layers,
        intervals=cast("Literal['jackknife'] | None", intervals),
        groups=groups,
        ridge=_ridge(ridge),
        sample=sample,
        permutations=permutations,
        memory_gib=memory,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        progress=True,
    )
    comparison.provenance["command"] = typed()
    comparison.save(out, overwrite=overwrite)
    show_comparison(comparison)
    say(f"report: {out / 'report.html'}")


def _ridge(text: str | None) -> "Ridge | None":
    """A number where the text is one; anything else is for `compare` to judge."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return cast("Ridge", text)


def report(folder: Annotated[Path, typer.Argument(help="The --out of a run.")]) -> None:
    """Show the table of a run again; of a comparison or a grid, write figure and report anew."""
    from bertft import results
    from bertft.compared import Comparison

    if (folder / "ablation.json").is_file():
        from bertft.ablation import Ablation

        show_ablation(Ablation.load(folder))
        return
    table, provenance = results.load_run(folder)
    if provenance.get("kind") == "finetune":
        show_table(table[["corpus", "measure", "value", "n"]], str(folder))
        for note in (f"frozen prefix: {provenance['prefix_cache']}", *provenance["notes"]):
            say(note)
        return
    if provenance.get("kind") == "probe":
        from bertft.probes import Probing

        probing = Probing.load(folder)
        path = probing.write_report(folder)
        show_probing(probing)
        say(f"report: {path}")
        return
    comparison = Comparison.load(folder)
    path = comparison.write_report(folder)
    show_comparison(comparison)
    say(f"report: {path}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the table, figure and report.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of sentences and fine-tuning.")] = 0,
) -> None:
    """Pretrain a tiny BERT, fine-tune it, and compare the two: no network, about a minute."""
    from bertft.demonstration import demo as run_demo

    comparison = run_demo(seed=seed, progress=True)
    comparison.provenance["command"] = typed()
    # The demo's own folder holds nothing but earlier demos.
    comparison.save(out, overwrite=True)
    show_comparison(comparison)
    for note in comparison.provenance["notes"]:
        say(note)
    say(f"report: {out / 'report.html'}")
