"""The page: complete, small, self-contained, and deaf to whatever its texts try."""

from __future__ import annotations

import base64
import builtins
import copy
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2 import StrictUndefined

from hotlap.errors import MissingExtra
from hotlap.report import page, view

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.contents: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        self.contents.append((self.inside[-1] if self.inside else "", data))
        if not {"script", "style"} & set(self.inside):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _outline(result: dict[str, Any]) -> Outline:
    return Outline(page.html(result).decode())


def test_is_small_and_says_nothing_undefined(variation: dict[str, Any]) -> None:
    made = page.html(variation)
    assert len(made) < page.MOST_BYTES
    outline = Outline(made.decode())
    assert outline.inside == []
    for word in ("Undefined", "None", "nan", "{{", "{%"):
        assert word not in outline.text.split()


def test_every_element_is_ours_whatever_the_texts_hold(variation: dict[str, Any], sample: dict[str, Any]) -> None:
    outline = _outline(variation)
    assert len(outline.all("script")) == 1
    assert len(outline.all("style")) == 1
    assert not outline.all("img")
    for tag, attributes in outline.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "action")], tag
        assert "href" not in attributes or (attributes["href"] or "").startswith(("#", "data:,"))
    assert "document.title=" not in "".join(data for tag, data in outline.contents if tag in ("script", "style"))


def test_hostile_texts_are_shown_as_they_are(vary: Any) -> None:
    result = vary("hostile")
    outline = _outline(result)
    assert result["workload"] in outline.text
    assert outline.contents[[tag for tag, _ in outline.contents].index("title")][1].startswith(result["workload"])


def test_the_policy_allows_this_style_and_this_script_and_no_network(sample: dict[str, Any]) -> None:
    text = page.html(sample).decode()
    outline = Outline(text)
    policy = next(one for one in outline.all("meta") if one.get("http-equiv"))["content"]
    assert policy
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for tag in ("style", "script"):
        between = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(between.encode()).digest()).decode()
        assert directives[f"{tag}-src"] == f"'sha256-{digest}'"
    assert directives["default-src"] == "'none'"
    assert set(directives) == {"default-src", "style-src", "script-src", "img-src", "base-uri", "form-action"}
    assert not re.search(r"https?://", text)


def test_every_candidate_and_every_reason_is_there(sample: dict[str, Any]) -> None:
    text = _outline(sample).text
    for candidate in sample["candidates"]:
        assert candidate["name"] in text
        assert candidate.get("reason", "")[1:] in text
    for sentence in ("the two with the fewest channels", "9% of its time goes into quantize and dequantize"):
        assert sentence in text


@pytest.mark.parametrize(
    "words",
    [
        "15.2× faster, accuracy held",
        "At most 0.0061 lost",
        "Measured again in fresh processes, on 1,215 examples that chose nothing.",
        'hotlap.load("artifact")',
        "hotlap verify artifact WORKLOAD.py",
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
        "avx512_vnni",
        "hotlap optimize digits.py --out out",
        "The model was left in training mode; it was put into eval mode.",
        "Speed-up over the baseline (times, log scale)",
        "Score lost against the original (in its own unit)",
        "gate: at most 0.01 lost",
        "Multiply-adds per byte moved (log scale)",
        "Multiply-adds per second (log scale)",
        "layer1.0.conv1",
        "By the measured limits this form could take as little as 0.190 ms.",
        "2026-11-23 22:43 UTC",
        "2 lost, 0 gained",
        "failed At most 0.0127 lost, where 0.01 is allowed.",
    ],
)
def test_holds_what_a_reader_needs(words: str, sample: dict[str, Any]) -> None:
    squeezed = re.sub(r"\s", "", _outline(sample).text)
    if words.startswith("failed"):  # the outcome and the reason stand in cells with a number between
        words = words.removeprefix("failed ")
    assert re.sub(r"\s", "", words) in squeezed


def test_is_sound_for_those_who_listen(variation: dict[str, Any]) -> None:
    outline = _outline(variation)
    ids = Counter(attributes["id"] for _, attributes in outline.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    for _, attributes in outline.elements:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids
    for attributes in outline.all("svg"):
        assert attributes.get("aria-hidden") == "true" or (
            attributes["role"] == "img" and len(str(attributes["aria-labelledby"]).split()) == 2
        )
    tags = [tag for tag, _ in outline.elements]
    assert tags.count("table") == tags.count("caption")
    assert all("scope" in attributes for attributes in outline.all("th"))
    assert tags.count("h1") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_templates_use_no_name_that_is_never_there(sample: dict[str, Any]) -> None:
    """With a result that has every field, a misspelt one shows."""
    sample["best"]["equivalence"] = {"largest_relative_difference": 1e-6, "tolerance": 1e-3}
    sample["profile"]["suggestions"][0].setdefault("at_most_speedup", 2.0)
    strict = page._environment().overlay(undefined=StrictUndefined)
    result = page._cut(sample, *page._CUTS[0])
    values = {**view.view(result, sample), "style": page._source("page.css"), "script": page._source("page.js")}
    assert strict.get_template("page.html").render(values).encode() == page.html(sample)


def test_the_same_result_gives_the_same_page(sample: dict[str, Any]) -> None:
    before = copy.deepcopy(sample)
    assert page.html(sample) == page.html(sample)
    assert sample == before


def _enormous(sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
    candidate = sample["candidates"][0]
    operations = [{"name": "x" * 5000, "kind": "k" * 5000, "ms": 1.0, "role": "compute"}] * 30
    yield {**sample, "candidates": [{**candidate, "operations": operations, "reason": "r" * 10**5}] * 600}
    layers = [{**sample["profile"]["layers"][0], "name": "n" * 3000}] * 1000
    yield {**sample, "profile": {**sample["profile"], "layers": layers}}
    yield {**sample, "warnings": ["w" * 10_000] * 200, "command": "c" * 10**6}


@pytest.mark.slow
def test_stays_small_whatever_it_is_given(sample: dict[str, Any]) -> None:
    for result in _enormous(sample):
        assert len(page.html(result)) < page.MOST_BYTES


def test_says_how_many_candidates_were_left_out(sample: dict[str, Any]) -> None:
    sample["candidates"] = [{**sample["candidates"][0], "reason": "r" * 900}] * 600
    text = _outline(sample).text
    assert re.search(r"400 more are in result\.json; they were left out to keep this page small\.", text)


def test_tuning_has_a_page_too(vary: Callable[[str], dict[str, Any]]) -> None:
    text = _outline(vary("tuning")).text
    assert "a training step" in text
    assert "Proven in a short run" in text
    assert "That says nothing of the final score" in text
    assert "at most 3.0% (95%), where 5.0% is allowed" in text
    assert "Training examples seen" in text
    assert "hotlap train WORKLOAD.py" in text
    assert "could not be exported" not in text


def test_tuning_says_what_is_yours_to_decide(vary: Callable[[str], dict[str, Any]]) -> None:
    result = {**vary("tuning"), "proposal": "steps of 64 examples change the result", "locked": ["workers", "pin"]}
    text = _outline(result).text
    assert "Steps of 64 examples change the result." in text
    assert "workers, pin: not hotlap's to choose, since training gives batches of its own." in text
    assert "hotlap's to choose" not in _outline({**result, "locked": []}).text


def test_without_jinja2_it_says_how_to_get_it(sample: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *rest, **more)

    page._environment.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"^report\.html needs jinja2; install it with: pip install 'hotlap\[opti"):
        page.html(sample)


def test_a_tuning_page_tells_steps_and_no_scores_of_its_set_ups(vary: Callable[[str], dict[str, Any]]) -> None:
    searched = _outline(vary("sample")).text
    told = _outline(vary("tuning")).text
    assert "Steps a second" in told
    assert "holds it as code for plain PyTorch, Lightning and Accelerate" in told
    assert "Each was timed together with those that had been kept before it" in told
    for words in ("Calls a second", "the score lost", "Built in"):
        assert words not in told
        assert words in searched


def test_a_tunings_speeds_are_drawn_without_a_word_on_accuracy(vary: Callable[[str], dict[str, Any]]) -> None:
    result = vary("tuning")
    result["candidates"] = [{**one, "drop": None, "gate": None} for one in result["candidates"]]
    told = _outline(result).text
    assert "Further right is faster; a whisker is the interval of the speed-up, as far as the plot goes." in told
    assert "accuracy was measured" not in told
    assert "gate" not in told
    assert "winner, as confirmed on data that chose nothing" not in told
    assert "today's set-up" in told


def test_a_tuning_that_changed_nothing_speaks_of_todays_set_up(vary: Callable[[str], dict[str, Any]]) -> None:
    result = vary("tuning_refused")
    result["best"] = {**result["baseline"], "speedup": result["best"]["speedup"], "bound_by": "compute"}
    result["candidates"] = [{"name": "compile", "status": "skipped", "reason": "the budget was spent"}]
    made = page.html(result).decode()
    assert '<h2 id="before">Today&#39;s set-up</h2>' in made
    assert "The set-up that was kept" in made
    assert "Bound by" in made
    assert '<span class="on-narrow reason">The budget was spent.</span>' in made
