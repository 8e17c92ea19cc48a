"""What a comparison has found: its tables, their files, figures and report."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bertft import results
from bertft.moments import Moments, load_moments, save_moments

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Comparison:
    """Every measure of every pair of layers, with what it took to get there.

    Attributes:
        table: tidy pandas table with the columns `pretrained, finetuned, corpus, site,
            pretrained_layer, finetuned_layer, measure, value, low, high, n`, what the value stands
            on (`n_per_d`, and `rank_`, `condition_` and `left_out_` of both sides), `chance` (what
            unrelated rows would give on average), `unchanged` (what equal layers give: 1 or 0, but
            with a ridge), `p_value` and the rows that it is of, `p_value_n`, and `note`: why a
            value is missing, or what to mind about it.
        geometry: the same for single layers: `model, role, corpus, site, layer, measure, value,
            low, high, n, note`.
        replicates: with intervals, the values without each group of sentences.
        provenance: models, corpora, options, versions, diagnostics and notes, as JSON types.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        provenance: dict[str, Any],
        moments: Mapping[str, Moments] | Path,
        geometry: pd.DataFrame | None = None,
        replicates: pd.DataFrame | None = None,
    ) -> None:
        self.table = table
        self.provenance = provenance
        self.geometry = pd.DataFrame() if geometry is None else geometry
        self.replicates = pd.DataFrame() if replicates is None else replicates
        self._moments = moments

    @property
    def moments(self) -> Mapping[str, Moments]:
        """The statistics of each corpus; sides are "pretrained.0", "finetuned.3.attention", ...

        Those of the second fine-tuned model and of later ones are under "CORPUS, finetuned-2".
        """
        if isinstance(self._moments, Path):
            self._moments = load_moments(self._moments)
        return self._moments

    def plot(self) -> "Figure":
        """Return a figure with a line per measure over layers and a column per corpus."""
        from bertft.report.figures import layer_figure

        return layer_figure(self.table)

    def heatmap(self) -> "Figure":
        """Return a figure with a heat map per measure and corpus, over all pairs of layers."""
        from bertft.report.heatmaps import heat_figure

        return heat_figure(self.table)

    def difference(
        self,
        other: "Comparison",
        *,
        corpus: str | None = None,
        other_corpus: str | None = None,
        finetuned: str | None = None,
        other_finetuned: str | None = None,
    ) -> pd.DataFrame:
        """Return how much higher every value is here than in another comparison.

        Two fine-tunings or seeds on the same text, or two corpora or two models of one comparison:
        pass this comparison itself and both names. Where both stand on the same groups of
        sentences, these are left out of both at once and the interval is that of the paired
        difference; else the groups are independent.

        Args:
            other: a comparison; with intervals in both, differences have them too.
            corpus: of this one; by default every corpus that both have.
            other_corpus: of the other; by default the same.
            finetuned: name of the fine-tuned model of this one, where there are several.
            other_finetuned: of the other.

        Returns:
            A row for each corpus, pair of layers and measure that both have: `corpus, other_corpus,
            finetuned, other_finetuned, site, pretrained_layer, finetuned_layer, measure, value,
            low, high, is_paired, n, other_n, note`.

        Raises:
            ValueError: a corpus or a model that is not there, or nothing in common.
        """
        from bertft.contrasts import difference

        return difference(self, other, corpus, other_corpus, finetuned, other_finetuned)

    @property
    def facets(self) -> list[str]:
        """The corpora, once for each site and of several models each: "ewt (attention, parser)"."""
        from bertft.report.vocabulary import by_facet

        return list(by_facet(self.table)["corpus"].unique())

    def rows_of(self, facet: str) -> pd.DataFrame:
        """Return the rows of the table that belong to one of the `facets`."""
        from bertft.report.vocabulary import by_facet

        return self.table[by_facet(self.table)["corpus"] == facet]

    def summary(self, corpus: str | None = None) -> pd.DataFrame:
        """Return layers by measures for one of the `facets` (the first by default)."""
        from bertft.report.html import summary_table

        return summary_table(self.table, corpus or self.facets[0])

    def save(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write table, provenance, moments, figure and report to a folder, whole or not at all.

        Raises:
            FileExistsError: the folder holds another run and `overwrite` is not set.
        """
        moments = self.moments

        def write(folder: Path) -> None:
            save_moments(folder / "moments.safetensors", moments)
            for name, table in (("geometry", self.geometry), ("replicates", self.replicates)):
                if len(table):
                    table.to_parquet(folder / f"{name}.parquet", index=False)
            if len(self.geometry):
                self.geometry.to_csv(folder / "geometry.csv", index=False)
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
        folder = Path(out)
        further = [results.load_table(folder, name) for name in ("geometry", "replicates")]
        return cls(table, provenance, folder / "moments.safetensors", *further)

    def write_report(self, out: str | os.PathLike[str]) -> Path:
        """Write the figures and `report.html` again, and return the path of the report."""
        from bertft.files import write_text
        from bertft.report.figures import svg_text
        from bertft.report.html import render

        figures = {"figure": self.plot()}
        if (self.table["pretrained_layer"] != self.table["finetuned_layer"]).any():
            figures["heatmap"] = self.heatmap()
        texts = {name: svg_text(figure) for name, figure in figures.items()}
        for name, svg in texts.items():
            write_text(Path(out) / f"{name}.svg", svg)
        page = render(
            self.table, self.provenance, texts["figure"], texts.get("heatmap"), self.geometry
        )
        report = Path(out) / "report.html"
        write_text(report, page)
        return report

    def _repr_html_(self) -> str:
        tables = []
        for corpus in self.facets:
            frame = self.summary(corpus).style.format(precision=4, na_rep="")
            tables.append(frame.set_caption(str(corpus)).to_html())
        return "\n".join(tables)

    def __repr__(self) -> str:
        measures = ", ".join(self.table["measure"].unique())
        corpora = ", ".join(self.facets)
        layers = self.table["pretrained_layer"].nunique()
        return f"Comparison({layers} layers on {corpora}: {measures})"
