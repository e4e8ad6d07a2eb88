"""The page in a real browser: nothing overflows or is loaded, everything can be read, and the script works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hotlap.report.page import html

WIDTHS = (360, 390, 768, 1280)

# The least contrast between each visible text and what lies behind it (WCAG 2.2, 1.4.3), with the worst text.
CONTRAST = """(() => {
  const parse = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return color.includes('/') || color.startsWith('rgba') ? [r, g, b, a] : [r, g, b, 1];
  };
  const luminance = (rgb) => rgb.slice(0, 3)
    .map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] === 1) return color;
    }
    throw new Error('no background');
  };
  let worst = { contrast: 99, text: '' }, seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !element.getClientRects().length || element.closest('script, title, desc')) continue;
    const style = getComputedStyle(element);
    const front = luminance(parse(element.closest('svg') ? style.fill : style.color));
    const back = luminance(behind(element));
    const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    seen += 1;
    if (contrast < worst.contrast) worst = { contrast, text };
  }
  return { ...worst, seen };
})()"""

# Elements that reach past the page's right edge and are not inside a container that scrolls or clips.
STICKING_OUT = """[...document.body.querySelectorAll('*')].filter((one) => {
  const framed = one.closest('.scroll, pre, svg, .hidden, .skip') && !one.matches('.scroll, pre');
  return !framed && one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5;
}).map((one) => one.outerHTML.slice(0, 80))"""


@pytest.fixture
def page(variation: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_bytes(html(variation))
    return path


@pytest.fixture
def sample_page(sample: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_bytes(html(sample))
    return path


def test_nothing_sticks_out_loads_or_complains(page: Path, browser: Any) -> None:
    browser.open(page)
    for width in WIDTHS:
        browser.resize(width)
        assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
        assert browser.ask(STICKING_OUT) == [], width
    assert browser.troubles() == []
    assert not browser.ask("document.title").startswith("owned")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out(page: Path, browser: Any, dark: bool) -> None:
    browser.open(page, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = browser.ask(CONTRAST)
    assert found["seen"] > 50
    assert found["contrast"] >= 4.5, found


def test_the_browser_notices_what_these_tests_look_for(tmp_path: Path, browser: Any) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<body style="background: #fff"><p style="color: #999">pale</p><div style="width: 2000px">wide</div>'
        '<img src="http://localhost:9/x.png"><script>console.error("trouble"); nothing.at.all</script>'
    )
    browser.open(path)
    assert browser.ask(CONTRAST)["text"] == "pale"
    assert browser.ask(CONTRAST)["contrast"] < 3
    assert [element[:4] for element in browser.ask(STICKING_OUT)] == ["<div"]
    troubles = " ".join(browser.troubles())
    assert all(word in troubles for word in ("http://localhost:9/x.png", "trouble", "nothing is not defined"))


def test_light_and_dark_are_two(sample_page: Path, browser: Any) -> None:
    seen = []
    for dark in (False, True):
        browser.open(sample_page, dark=dark)
        seen.append(browser.ask("getComputedStyle(document.body).backgroundColor"))
    assert seen[0] != seen[1]


def test_the_plot_for_the_width_is_the_one_shown(sample_page: Path, browser: Any) -> None:
    shown = "[...document.querySelectorAll('.plot')].filter((one) => one.getClientRects().length)"
    for width, size in ((360, "narrow"), (1280, "wide")):
        browser.open(sample_page, width=width)
        assert browser.ask(f"{shown}.map((one) => one.classList[1])") == [size, size]
        # Text of a plot that shrinks with it must stay legible.
        least = f"Math.min(...{shown}.flatMap((one) => [...one.querySelectorAll('text')])"
        assert browser.ask(f"{least}.map((one) => one.getBoundingClientRect().height))") >= 12


def test_the_answers_are_on_the_first_screen(sample_page: Path, browser: Any) -> None:
    browser.open(sample_page)
    bottom = "document.querySelector('.answers').getBoundingClientRect().bottom"
    assert browser.ask(bottom) < 900


def _column(browser: Any, index: int, attribute: str = "") -> list[str]:
    rows = "[...document.querySelector('table.candidates').tBodies[1].rows].filter((one) => !one.hidden)"
    read = f".dataset.{attribute}" if attribute else ".innerText"
    return browser.ask(f"{rows}.map((row) => row.cells[{index}]{read})")


def _click(browser: Any, selector: str, index: int) -> None:
    browser.ask(f"document.querySelectorAll({json.dumps(selector)})[{index}].click()")


def test_headings_sort_and_unknown_goes_last(sample_page: Path, sample: dict[str, Any], browser: Any) -> None:
    browser.open(sample_page)
    times = sorted(one["median_ms"] for one in sample["candidates"] if "median_ms" in one)
    unknown = [""] * (len(sample["candidates"]) - len(times))
    _click(browser, "th button.sort", 2)
    assert _column(browser, 2, "sort") == [*map(str, times), *unknown]
    assert browser.ask("document.querySelectorAll('th')[2].ariaSort") == "ascending"
    _click(browser, "th button.sort", 2)
    assert _column(browser, 2, "sort") == [*map(str, reversed(times)), *unknown]
    assert browser.ask("document.querySelectorAll('[aria-sort]').length") == 1
    _click(browser, "th button.sort", 0)
    names = _column(browser, 0, "sort")
    assert names == browser.ask(f"{json.dumps(names)}.sort((a, b) => a.localeCompare(b))")
    assert sorted(names) == sorted(one["name"] for one in sample["candidates"])
    assert browser.ask("document.querySelector('table.candidates').tBodies[0].rows.length") == 1
    assert browser.troubles() == []


def test_filters_by_outcome(sample_page: Path, sample: dict[str, Any], browser: Any) -> None:
    browser.open(sample_page)
    failed = {one["name"] for one in sample["candidates"] if one["status"] == "failed"}
    browser.ask("document.querySelector('[data-filter=failed]').click()")
    assert set(_column(browser, 0, "sort")) == failed
    assert browser.ask("document.querySelector('[aria-pressed=true]').innerText") == "Failed 4"
    _click(browser, "[data-filter]", 0)
    assert len(_column(browser, 0)) == len(sample["candidates"])


def test_copies_the_code(sample_page: Path, browser: Any) -> None:
    browser.open(sample_page)
    clicked = """new Promise((done) => {
      const button = document.querySelector('.copy');
      new MutationObserver(() => done(button.textContent)).observe(button, { childList: true });
      button.click();
    })"""
    said = browser.ask(clicked)
    selected = browser.ask("getSelection().toString()")
    assert said == "Copied" or (said == "Selected" and 'hotlap.load("artifact")' in selected)
    assert 'hotlap.load("artifact")' in browser.ask("document.querySelector('.code code').textContent")


def test_a_mark_says_what_it_is(sample_page: Path, browser: Any) -> None:
    browser.open(sample_page)
    browser.ask("document.querySelector('.plot.wide').scrollIntoView()")
    spot = browser.ask(
        "(() => { const box = document.querySelector('.plot.wide .confirmed .point').getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=spot[0], y=spot[1])
    tip = browser.ask("document.getElementById('tooltip').innerText")
    assert tip.splitlines() == [
        "openvino int8 (nncf, per channel) (confirmed)",
        "0.641 ms",
        "15.2× (14.7–15.7)",
        "lost 0.0016, at most 0.0061",
    ]
    box = browser.ask("document.getElementById('tooltip').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= 1280
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert browser.ask("document.getElementById('tooltip').hidden")


def test_the_keyboard_reaches_everything_that_acts(sample_page: Path, browser: Any) -> None:
    browser.open(sample_page)
    acting = (
        "[...document.querySelectorAll('a, button, summary, .scroll, pre')]"
        ".filter((one) => one.getClientRects().length && one.tabIndex < 0).length"
    )
    assert browser.ask(acting) == 0
    nameless = "[...document.querySelectorAll('a, button, [role=region]')].filter((one) => !name(one)).length"
    name = "function name(one) { return one.ariaLabel || one.innerText.trim(); }"
    assert browser.ask(f"(() => {{ {name} return {nameless}; }})()") == 0


def test_reads_whole_without_its_script(sample_page: Path, browser: Any) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(sample_page)
        document = browser.send("DOM.getDocument", depth=-1)["root"]
        text = browser.send("DOM.getOuterHTML", nodeId=document["nodeId"])["outerHTML"]
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert 'class="filter" role="group" aria-label="Show candidates by status" hidden' in text
    assert text.count("<title>") > 20  # the marks keep their own
    assert "There is no CUDA device here." in text


def test_prints_on_paper(sample_page: Path, browser: Any) -> None:
    browser.open(sample_page, dark=True)
    paper = browser.pdf()
    pages = len(re.findall(rb"/Type\s*/Page\b", paper))
    assert 4 <= pages <= 14
    browser.open(sample_page, width=794, dark=True, media="print")
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.ask("document.querySelector('nav').getClientRects().length") == 0
