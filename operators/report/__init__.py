"""The report of a run: what was built, what was rejected and why, data quality, and time per stage.

`tables` reads columns. `collect` computes all numbers, with `baselines` for the baselines and `funnel` for the
questions that remain after each gate. `health` judges the numbers as findings, `plots` draws SVG, `figures` chooses the
plots, and `page` renders one HTML page.
"""

from operators.report.page import write_report

__all__ = ["write_report"]
