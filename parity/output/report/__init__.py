"""The report: one HTML file that shows a run.

`pictures` selects what is shown of each image, `encoding` turns pixels and differences into text, `page` collects
everything that the template and the scripts need, `formatting` formats the numbers of its tables, and `writing` fills
the template.
"""

from .writing import check_report, write_report

__all__ = ["check_report", "write_report"]
