"""Makes the page again from `result.json`, without running anything."""

from __future__ import annotations

from pathlib import Path

from hotlap.report.page import html
from hotlap.report.schema import read_result
from hotlap.search.folder import write_whole

PAGE = "report.html"


def write_report(result_path: Path) -> Path:
    """Write `report.html` beside the result and give its path.

    Raises InputError where there is no result to read, OutputError where the page can't be written, MissingExtra
    without jinja2. A page that was there is replaced whole or stays.
    """
    path = result_path.with_name(PAGE)
    write_whole(path, html(read_result(result_path)))
    return path
