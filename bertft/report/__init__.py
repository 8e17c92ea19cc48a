"""Figures and self-contained HTML reports, drawn from the tidy table and its provenance.

`vocabulary` owns the measures a report knows, `figures` the plot, `html` the words and the page.
Nothing here computes a measure, and nothing heavy is imported before a submodule is asked for.
"""
