"""The command line: `bertft compare | probe | finetune | ablate | report | demo`.

Owns the application and how it ends; the commands are in `comparing`, `probing` and `training`.
"""

import sys
from typing import Annotated

import typer

import bertft
from bertft.cli.comparing import compare, demo, report
from bertft.cli.probing import probe
from bertft.cli.training import ablate, finetune
from bertft.files import reason_of

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
            _fail(f"interrupted; {_left_by(sys.argv[1:2])}.", INTERRUPTED)
        raise
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        # Anything else is a defect and keeps its traceback.
        if (reason := reason_of(error)) is None:
            raise
        _fail(reason)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"bertft {bertft.__version__}")
        raise typer.Exit


def _left_by(command: list[str]) -> str:
    """What an interrupted command leaves behind."""
    if command == ["probe"] and any(w.split("=")[0] == "--features" for w in sys.argv):
        return "features that are captured stay, and the next run goes on from there"
    left = {
        "finetune": "go on from the last checkpoint with --resume",
        "ablate": "run it again to go on where it stopped",
    }
    return left.get("".join(command), "nothing was written")


def _fail(message: str, status: int = 2) -> None:
    print(f"bertft: {message}", file=sys.stderr)
    raise SystemExit(status)


for command in (compare, probe, finetune, ablate, report, demo):
    app.command()(command)
