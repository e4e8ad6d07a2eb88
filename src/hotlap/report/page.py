"""A result as one HTML page that needs nothing else: no network, no other file, no model.

Everything is drawn here; the script only sorts, filters, copies and shows tooltips, so the page reads whole without
it. The page's own policy allows its style and its script by digest and nothing more: text of the result that got
past the escaping could neither run nor load anything.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.errors import MissingExtra
from hotlap.report import view, wording

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_BYTES = 2_000_000
_LONGEST_TEXT = 1_000
# Tried in turn until the page is small enough: how many candidates, how many operations of each, how many layers.
_CUTS = ((2_000, 12, 300), (500, 6, 100), (200, 0, 40), (50, 0, 20))


def html(result: Json) -> bytes:
    """The page, in UTF-8, under 2 MB, for any result that fits the schema. Raises MissingExtra without jinja2."""
    short = _shortened(result, _LONGEST_TEXT)
    script = _source("page.js")
    for candidates, operations, layers in _CUTS:
        values = view.view(_cut(short, candidates, operations, layers), result)
        page = rendered("page.html", {**values, "script": script}, "page.css")
        if len(page) < MOST_BYTES:
            return page
    raise ValueError(f"the page has {len(page):,} bytes even when cut to {candidates} candidates")


def rendered(template: str, values: dict[str, Any], *styles: str) -> bytes:
    """A page in UTF-8: the template with the values, and the style sheets one after the other as `style`.

    Raises MissingExtra without jinja2.
    """
    style = "".join(_source(name) for name in styles)
    return _environment().get_template(template).render(values, style=style).encode("utf-8", "replace")


@cache
def _environment() -> Environment:
    try:
        from jinja2 import ChainableUndefined, Environment, PackageLoader
    except ImportError as error:
        raise MissingExtra("report.html needs jinja2; install it with: pip install 'hotlap[optimize]'") from error
    environment = Environment(
        loader=PackageLoader("hotlap", "report"),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ms=wording.milliseconds,
        bytes=wording.byte_size,
        count=wording.count,
        percent=wording.percent,
        duration=wording.duration,
        significant=wording.significant,
        sentence=wording.sentence,
        digest=_digest,
    )
    return environment


def _source(name: str) -> str:
    return files("hotlap.report").joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    """What a content security policy calls this exact text."""
    return "sha256-" + b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _shortened(value: Json, longest: int) -> Json:
    """The same value with every text cut to `longest` letters: one long error message must not drown the page."""
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[: longest - 1]}…"
    if isinstance(value, list):
        return [_shortened(item, longest) for item in value]
    if isinstance(value, dict):
        return {_shortened(name, longest): _shortened(item, longest) for name, item in value.items()}
    return value


def _cut(result: dict[str, Any], candidates: int, operations: int, layers: int) -> dict[str, Any]:
    """The same result with its longest lists cut."""
    kept = []
    for candidate in view.in_order(result.get("candidates") or [])[:candidates]:
        kept.append({**candidate, "operations": (candidate.get("operations") or [])[:operations]})
    cut = {**result, "candidates": kept}
    for name in ("warnings", "confirmations"):
        cut[name] = (result.get(name) or [])[:100]
    profile = result.get("profile")
    if profile:
        lists = {name: (profile.get(name) or [])[:layers] for name in ("layers", "kinds", "suggestions")}
        roofline = profile.get("roofline") or {}
        roofline = {**roofline, "points": (roofline.get("points") or [])[:layers]}
        cut["profile"] = {**profile, **lists, "roofline": roofline}
    return cut
