"""The measures a report knows: their order, family, direction, range and meaning.

Also reads a tidy table in these terms. Owns no formula: those are in `bertft.similarity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import pandas as pd

COLUMNS = (
    "pretrained",
    "finetuned",
    "corpus",
    "pretrained_layer",
    "finetuned_layer",
    "measure",
    "value",
    "low",
    "high",
    "n",
)


@dataclass(frozen=True)
class Measure:
    """How a reader should take one measure.

    Attributes:
        family: the name that groups it with its kin in legends and tables.
        panel: the axis it shares; `l2` stands alone since it has no upper bound.
        range: the values it can take, as text.
        question: the question it answers, in one line.
    """

    family: str
    panel: Literal["similarity", "distance", "l2"]
    range: str
    question: str

    @property
    def unchanged(self) -> float:
        """The value of two identical representations, without a ridge."""
        return 1.0 if self.panel == "similarity" else 0.0

    @property
    def direction(self) -> str:
        """Where the value goes when the representations change more."""
        return "lower" if self.unchanged else "higher"


MEASURES = {
    "rsa": Measure(
        "RSA",
        "similarity",
        "-1 to 1",
        "Do the same pairs of rows stay similar? Correlates all pairwise cosines before and after.",
    ),
    "rsa_dot": Measure(
        "RSA",
        "similarity",
        "-1 to 1",
        "Do pairs of rows keep their dot products? The lengths of the vectors count too.",
    ),
    "rsa_sqeuclidean": Measure(
        "RSA",
        "similarity",
        "-1 to 1",
        "Do pairs of rows keep their squared distances? A shift of all rows does not count.",
    ),
    "rsa_correlation": Measure(
        "RSA",
        "similarity",
        "-1 to 1",
        "Do pairs of rows keep their correlations over features? A row's own mean does not count.",
    ),
    "rsa_spearman": Measure(
        "RSA",
        "similarity",
        "-1 to 1",
        "Do pairs of rows keep the order of their cosines? Of a sample; outliers count by rank.",
    ),
    "rsa_kendall": Measure(
        "RSA",
        "similarity",
        "-1 to 1",
        "Of two pairs of rows, does the closer one stay the closer? Of a sample, tau-a.",
    ),
    "cka": Measure(
        "CKA",
        "similarity",
        "0 to 1",
        "Do the directions with most variance arrange the rows alike, up to rotation and scale?",
    ),
    "cka_debiased": Measure(
        "CKA",
        "similarity",
        "-1 to 1",
        "Are the rows arranged alike beyond chance? CKA without its upward bias on few rows.",
    ),
    "cka_rbf": Measure(
        "CKA",
        "similarity",
        "0 to 1",
        "Are near rows arranged alike? CKA with a Gaussian kernel, of a sample.",
    ),
    "knn_overlap": Measure(
        "Neighbors",
        "similarity",
        "0 to 1",
        "What share of a row's ten nearest neighbors by cosine stays? Of a sample.",
    ),
    "cca": Measure(
        "CCA",
        "similarity",
        "0 to 1",
        "Can a linear map carry one space to the other? Mean correlation, all directions equal.",
    ),
    "cca_r2": Measure(
        "CCA",
        "similarity",
        "0 to 1",
        "What share of a direction's variance does a linear map carry over, on average?",
    ),
    "svcca": Measure(
        "CCA",
        "similarity",
        "0 to 1",
        "Do the leading directions of both sides correspond? Mean correlation, the rest ignored.",
    ),
    "pwcca": Measure(
        "CCA",
        "similarity",
        "0 to 1",
        "Do the directions that matter to the pretrained layer survive? Mean correlation.",
    ),
    "pwcca_y": Measure(
        "CCA",
        "similarity",
        "0 to 1",
        "Were the directions that matter to the fine-tuned layer there already? Mean correlation.",
    ),
    "regression": Measure(
        "Regression",
        "similarity",
        "0 to 1",
        "How much of the pretrained layer's variance does the fine-tuned layer predict linearly?",
    ),
    "regression_y": Measure(
        "Regression",
        "similarity",
        "0 to 1",
        "How much of the fine-tuned layer's variance does the pretrained layer predict linearly?",
    ),
    "cosine": Measure(
        "First-order",
        "similarity",
        "-1 to 1",
        "Does each row's vector keep its direction? Even a harmless rotation lowers it.",
    ),
    "procrustes": Measure(
        "Shape",
        "distance",
        "0 to √2",
        "What distance is left after the best rotation, with shift and scale removed?",
    ),
    "procrustes_angle": Measure(
        "Shape",
        "distance",
        "0 to π/2 rad",
        "What angle is left after the best rotation, with shift and scale removed?",
    ),
    "l2": Measure(
        "First-order",
        "l2",
        "0 upwards",
        "How far did each row's vector move, on average? In the model's own units.",
    ),
}


SITES = {
    "attention": "what the last projection of a block's self-attention returns",
    "mlp": "what the last projection of a block's feed-forward network returns",
}
"""What the sites of a layer are, beside `output`: an entry of `hidden_states`."""


def by_facet(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every corpus named by its site and model too: "ewt (attention, parser)".

    What a report shows of a corpus it shows of each site and each fine-tuned model. The site
    `output` and a single model are not named.
    """
    told: list[pd.Series[str]] = []
    if "site" in table:
        told.append(table["site"].astype(str).where(table["site"] != "output", ""))
    if "finetuned" in table and len(short := short_names(table["finetuned"])) > 1:
        told.append(table["finetuned"].map(short))
    if not told:
        return table
    beside = [", ".join(filter(None, of_row)) for of_row in zip(*told, strict=True)]
    corpora = table["corpus"].astype(str)
    names = [f"{of} ({more})" if more else of for of, more in zip(corpora, beside, strict=True)]
    return table.assign(corpus=names)


def short_names(models: pd.Series[str]) -> dict[str, str]:
    """What models are called: by the last part of their names where that tells them apart."""
    names = [str(model) for model in dict.fromkeys(models)]
    last = {name: PurePath(name).name or name for name in names}
    return last if len(set(last.values())) == len(names) else {name: name for name in names}


def tuned_from(rows: pd.DataFrame) -> str:
    """The fine-tuned models of a table in a line: by name, or several by their short names."""
    short = short_names(rows["finetuned"])
    return ", ".join(short.values()) if len(short) > 1 else next(iter(short))


def same_numbered(table: pd.DataFrame, function: str) -> pd.DataFrame:
    """The rows of a tidy table that compare same-numbered layers, checked and in order.

    Corpora are named as `by_facet` has it and keep the order of the table, layers ascend; the
    column `layer` holds the number, `unchanged` what equal layers give.

    Args:
        table: a tidy table with `COLUMNS`.
        function: the public function that asks, for error messages.

    Raises:
        ValueError: a column is missing, a measure is unknown, several pretrained models, a
            cell occurs twice, or no row compares same-numbered layers.
    """
    _check_columns(table, function)
    rows = by_facet(table)[table["pretrained_layer"] == table["finetuned_layer"]]
    rows = rows.assign(layer=rows["finetuned_layer"].astype(int))
    if rows.empty:
        raise ValueError(
            f"[{function}] table must compare same-numbered layers, got no such row; "
            "include the pairs (0, 0), (1, 1) and so on."
        )
    _check_rows(rows, function, ["corpus", "layer", "measure"])
    rank = {name: at for at, name in enumerate(dict.fromkeys(rows["corpus"]))}
    return _with_unchanged(rows).sort_values(
        ["corpus", "layer"],
        key=lambda column: column.map(rank) if column.name == "corpus" else column,
        ignore_index=True,
    )


def pairs_of_layers(table: pd.DataFrame, function: str) -> pd.DataFrame:
    """The rows of a tidy table, of same-numbered layers or not, checked; see `by_facet`.

    Args:
        table: a tidy table with `COLUMNS`.
        function: the public function that asks, for error messages.

    Raises:
        ValueError: a column is missing, a measure is unknown, several pretrained models, a
            cell occurs twice, or there is no row.
    """
    _check_columns(table, function)
    rows = by_facet(table)
    _check_rows(rows, function, ["corpus", "pretrained_layer", "finetuned_layer", "measure"])
    return _with_unchanged(rows)


def is_shrunken(rows: pd.DataFrame) -> bool:
    """Whether a ridge keeps an unchanged layer of one measure from its value without."""
    nominal = MEASURES[str(rows["measure"].iloc[0])].unchanged
    return bool((rows["unchanged"] < nominal).any())


def _with_unchanged(rows: pd.DataFrame) -> pd.DataFrame:
    """With a column `unchanged`, also where the table has none or a value is missing."""
    nominal = rows["measure"].map(lambda name: MEASURES[name].unchanged)
    known = rows["unchanged"].fillna(nominal) if "unchanged" in rows else nominal
    return rows.assign(unchanged=known.astype(float))


def _check_columns(table: pd.DataFrame, function: str) -> None:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(
            f"[{function}] table must have the columns {', '.join(COLUMNS)}, got none named "
            f"{', '.join(missing)}; pass the table of a comparison."
        )
    unknown = sorted(set(map(str, table["measure"])) - set(MEASURES))
    if unknown:
        raise ValueError(
            f"[{function}] table must hold known measures, got {', '.join(unknown)}; "
            f"keep rows whose measure is one of {', '.join(MEASURES)}."
        )


def _check_rows(rows: pd.DataFrame, function: str, keys: list[str]) -> None:
    if rows.empty:
        raise ValueError(
            f"[{function}] table must hold values, got no row; pass the table of a comparison."
        )
    models = rows["pretrained"].unique()
    if len(models) > 1:
        raise ValueError(
            f"[{function}] table must hold one pretrained model, got {len(models)}; filter it by "
            "`pretrained` and report each on its own."
        )
    repeated = rows[rows.duplicated(keys)]
    if len(repeated):
        corpus, *layers, measure = repeated.iloc[0][keys]
        raise ValueError(
            f"[{function}] table must hold one row per corpus, layer and measure, got several for "
            f"corpus {corpus!r}, layer {', '.join(map(str, layers))}, measure {measure}; drop the "
            "repeated rows."
        )
