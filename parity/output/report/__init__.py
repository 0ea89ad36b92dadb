"""The report: one HTML file that shows a run of comparisons."""

from .writing import check_report, write_report

__all__ = ["check_report", "write_report"]
