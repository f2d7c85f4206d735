"""Reports: a dataset or a manifest on one self-contained HTML page that needs no network and runs no script."""

from labeling.report.page import report_of_dataset, report_of_manifest

__all__ = ["report_of_dataset", "report_of_manifest"]
