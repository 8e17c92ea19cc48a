"""A plan before long work and a bar while it runs; nothing of either where nobody looks."""

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "model"), counted(2000, "model")
    ('1 model', '2,000 models')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


class Display:
    """Lines and bars on the standard error stream; a bar only on a terminal.

    Args:
        shown: False for a display that shows nothing at all.
    """

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Progress | None = None

    def note(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._shown:
            self._console().print(text, highlight=False, markup=False, soft_wrap=True)

    def bar(self, title: str, total: int, unit: str) -> "Bar":
        """Return a bar over `total` units, to be used as a context."""
        return Bar(self, title, total, unit)

    def _console(self) -> "Console":
        from rich.console import Console

        return self._bar.console if self._bar is not None else Console(stderr=True)


class Bar:
    """A progress bar with units per second and the time left."""

    def __init__(self, display: Display, title: str, total: int, unit: str) -> None:
        self._display = display
        self._title, self._total, self._unit = title, total, unit

    def __enter__(self) -> "Bar":
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        display = self._display
        console = display._console()
        speed = f"{{task.fields[speed]}} {self._unit}/s"
        display._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn(speed),
            TimeRemainingColumn(),
            console=console,
            disable=not (display._shown and console.is_terminal and self._total),
            transient=True,
        )
        self._task = display._bar.add_task(self._title, total=self._total, speed="-")
        display._bar.start()
        return self

    def advance(self, amount: int) -> None:
        """Count `amount` more units as done."""
        bar = self._display._bar
        assert bar is not None
        bar.advance(self._task, amount)
        task = bar.tasks[0]
        if task.elapsed:
            speed = task.completed / task.elapsed
            bar.update(self._task, speed=f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}")

    def follow(self, done: int, total: int) -> None:
        """Show that `done` of `total` units are done."""
        bar = self._display._bar
        assert bar is not None
        bar.update(self._task, total=total)
        self.advance(done - int(bar.tasks[0].completed))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        bar = self._display._bar
        assert bar is not None
        bar.stop()
        self._display._bar = None
