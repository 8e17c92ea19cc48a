"""The command line: `bertft compare | report | demo`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

import bertft

if TYPE_CHECKING:
    from bertft.comparison import Comparison
    from bertft.rows import RowKind

INTERRUPTED = 130

app = typer.Typer(
    help="See what fine-tuning does inside a transformer, layer by layer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Run the command line; what the user can mend ends in one line and exit status 2."""
    try:
        app()
    except SystemExit as stop:
        # Typer turns Ctrl-C into this status.
        if stop.code == INTERRUPTED:
            _fail("interrupted; nothing was written.", INTERRUPTED)
        raise
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        # Texts of our own say what to do; anything else is a defect and keeps its traceback.
        if not str(error).startswith("["):
            raise
        _fail(" ".join([str(error), *getattr(error, "__notes__", [])]))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"bertft {bertft.__version__}")
        raise typer.Exit


@app.command()
def compare(
    pretrained: Annotated[str, typer.Argument(help="Folder or hub name (NAME@revision too).")],
    finetuned: Annotated[str, typer.Argument(help="The same model after fine-tuning.")],
    data: Annotated[
        list[Path], typer.Option(help="A .txt, .conllu or .jsonl file; repeat it for more corpora.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the table, figure and report.")],
    measures: Annotated[
        str | None, typer.Option(help="Names, joined by commas; by default all that fit.")
    ] = None,
    rows: Annotated[str, typer.Option(help="words or tokens.")] = "words",
    limit: Annotated[
        int | None, typer.Option(min=2, help="Rows drawn from each corpus; all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a text; by default what the models take.")
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
        measures=[name.strip() for name in measures.split(",")] if measures is not None else None,
        rows=cast("RowKind", rows),
        limit=limit,
        seed=seed,
        max_length=max_length,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        progress=True,
    )
    comparison.provenance["command"] = " ".join(["bertft", *sys.argv[1:]])
    comparison.save(out, overwrite=overwrite)
    _show(comparison)
    _say(f"report: {out / 'report.html'}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The --out of a run.")]) -> None:
    """Show the table of a run again, and write its figure and report anew."""
    from bertft.comparison import Comparison

    comparison = Comparison.load(folder)
    path = comparison.write_report(folder)
    _show(comparison)
    _say(f"report: {path}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the table, figure and report.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of sentences and fine-tuning.")] = 0,
) -> None:
    """Pretrain a tiny BERT, fine-tune it, and compare the two: no network, about a minute."""
    from bertft.demonstration import demo as run_demo

    comparison = run_demo(seed=seed, progress=True)
    comparison.provenance["command"] = " ".join(["bertft", *sys.argv[1:]])
    # The demo's own folder holds nothing but earlier demos.
    comparison.save(out, overwrite=True)
    _show(comparison)
    for note in comparison.provenance["notes"]:
        _say(note)
    _say(f"report: {out / 'report.html'}")


def _show(comparison: "Comparison") -> None:
    """Print measures by layers for every corpus, in as many parts as the terminal needs."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for corpus in comparison.table["corpus"].unique():
        summary = comparison.summary(corpus).T
        names = max(map(len, summary.index)) + 2
        per_part = max(1, (console.width - names) // 8)
        for first in range(0, len(summary.columns), per_part):
            layers = summary.columns[first : first + per_part]
            table = Table("layer", box=box.SIMPLE_HEAD, padding=0, title_justify="left")
            table.title = Text(str(corpus))
            for layer in layers:
                table.add_column(str(layer), justify="right", no_wrap=True)
            for measure, values in summary[layers].iterrows():
                table.add_row(str(measure), *(f"{value:.4f}" for value in values))
            console.print(table)


def _say(text: str) -> None:
    from rich.console import Console

    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def _fail(message: str, status: int = 2) -> None:
    print(f"bertft: {message}", file=sys.stderr)
    raise SystemExit(status)
