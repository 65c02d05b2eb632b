"""The report of a run: what was made, what was thrown away and why, whether the data is healthy, where the time went.

`tables` reads columns, `collect` counts, `health` judges, `plots` draws, `page` puts it on one HTML page.
"""

from operators.report.page import write_report

__all__ = ["write_report"]
