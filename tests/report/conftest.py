"""A realistic result, variations of it, and a real browser to look at its page with."""

from __future__ import annotations

import base64
import copy
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def sample() -> dict[str, Any]:
    """What a search of 25 candidates left: some passed, some were refused, crashed or were skipped."""
    return json.loads((HERE / "sample.json").read_text(encoding="utf-8"))


class Browser:
    """Headless Chromium, spoken to over its debugging pipe: real layout, real policy, nothing else installed."""

    def __init__(self, folder: str) -> None:
        program = shutil.which("chromium")
        if program is None:
            pytest.fail("chromium is not installed; on Debian: apt-get install chromium")
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        quiet = "--no-first-run --disable-background-networking --disable-component-update --disable-sync"
        command = f"--headless --no-sandbox --disable-gpu --disable-quic {quiet} --disable-dev-shm-usage"
        self._process = subprocess.Popen(
            # The pipe's ends must be 3 and 4 in the browser.
            [
                "bash",
                "-c",
                f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}',
                program,
                *command.split(),
                "--remote-debugging-pipe",
                f"--user-data-dir={folder}",
            ],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest = 0, b""
        self.events: list[dict[str, Any]] = []
        target = self._send("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._send(method, parameters, self._session)

    def _send(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser closed its pipe"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path, *, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
        """Load a page and wait until it has been laid out."""
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.resize(width)
        self.send("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def resize(self, width: int) -> None:
        """Give the page this many px across, as on a phone where they are few."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1}
        self.send("Emulation.setDeviceMetricsOverride", **screen, mobile=width < 600)

    def ask(self, expression: str) -> Any:
        """What a JavaScript expression gives, awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        picture = self.send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(picture["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.send("Page.printToPDF", preferCSSPageSize=True)["data"])

    def troubles(self) -> list[str]:
        """Errors on the console, exceptions, refused or made requests: all that a quiet page has none of."""
        found = []
        for event in self.events:
            method, params = event["method"], event.get("params", {})
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(params)[:2000])
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
                found.append(params["request"]["url"])
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # Not under pytest's own folder: that one's path may be too long for the browser's sockets.
    with tempfile.TemporaryDirectory(prefix="hotlap-", ignore_cleanup_errors=True) as folder:
        opened = Browser(folder)
        yield opened
        opened.close()


def _without_winner(result: dict[str, Any]) -> None:
    """Nothing passed: the baseline is best, and the nearest miss is known."""
    for candidate in result["candidates"]:
        if candidate["status"] in ("chosen", "passed"):
            candidate.update(status="rejected", reason="at most 0.0206 lost, where 0.01 is allowed")
    one = {"estimate": 1.0, "low": 1.0, "high": 1.0}
    drop = {"estimate": 0.0, "high": 0.0, "lost": 0, "gained": 0}
    result["best"] = {
        **result["baseline"],
        "speedup": one,
        "drop": drop,
        "gate": "equivalence",
        "artifact": "artifact",
    }
    result.update(confirmed=False, confirmations=[], pareto=[])
    reason = "at most 0.0106 lost, where 0.01 is allowed"
    result["nearest_miss"] = {"name": "openvino int8 (nncf, per channel)", "reason": reason, "distance": 0.0006}


def _all_failed(result: dict[str, Any]) -> None:
    """No candidate ever ran."""
    _without_winner(result)
    result["nearest_miss"] = None
    result["candidates"] = [
        {"name": one["name"], "status": "failed", "reason": "process died: killed (signal 9) while it was built"}
        for one in result["candidates"]
    ]


def _agreement(result: dict[str, Any]) -> None:
    """No evaluation data: only outputs were compared."""
    result.update(accuracy="agreement", examples={"calibration": 64})
    for figures in (result["best"], *result["candidates"]):
        figures.pop("drop", None)
        figures.pop("slices", None)
        figures.pop("score", None)
        figures["gate"] = "agreement"
    result["best"]["drop"] = {"estimate": None, "high": None}
    result["best"]["gate_reason"] = "the arg-max is equal on 100% of 64 inputs; relative error at most 0.021"


def _minimal(result: dict[str, Any]) -> None:
    """No more than the schema asks for."""
    kept = ("schema", "kind", "workload", "objective", "batch", "device", "max_drop", "noise_floor", "accuracy")
    short = {name: result[name] for name in (*kept, "confirmed", "seconds")}
    short["machine"] = {name: result["machine"][name] for name in ("cpu", "cores", "memory_bytes")}
    short["limits"] = {"fp32_multiply_adds_per_second": 1e11, "bytes_per_second": 1e10}
    short["baseline"] = {"name": "eager fp32", "median_ms": 9.72}
    short["best"] = {
        name: result["best"][name]
        for name in ("name", "median_ms", "runtime", "precision", "speedup", "drop", "gate", "artifact")
    }
    short["candidates"] = []
    result.clear()
    result.update(short)


def _many(result: dict[str, Any]) -> None:
    """200 candidates, each with a long reason and operations of its own."""
    originals = result["candidates"]
    result["candidates"] = [
        {**copy.deepcopy(originals[index % 25]), "name": f"candidate {index}, {originals[index % 25]['name']}"}
        for index in range(200)
    ]
    for index, one in enumerate(result["candidates"]):
        if "speedup" in one:
            one["speedup"] = {name: value * (1 + index / 400) for name, value in one["speedup"].items()}
        one["operations"] = [
            {"name": f"/block{i}/Conv", "kind": "Convolution", "ms": 0.1 / (i + 1), "role": "compute"}
            for i in range(30)
        ]
        one["reason"] = one.get("reason", "") + " and a word more" * 20


def _unconfirmed(result: dict[str, Any]) -> None:
    """The budget ended before the winner could be measured again."""
    result.update(confirmed=False, confirmations=[])


def _hostile(result: dict[str, Any]) -> None:
    """Each text of the user's tries to leave its place."""
    attack = '</script></style></title><script>document.title="owned"</script>'
    attack += "<img src=x onerror=alert(1)>\"'><b onclick=x>"
    result.update(workload=attack, command=attack, warnings=[attack], pareto=[attack], created=attack)
    result["machine"]["cpu"] = attack
    result["machine"]["versions"] = {attack: attack}
    result["best"].update(
        name=attack, artifact=attack, gate_reason=attack, worst_slice=attack, options={attack: attack}
    )
    result["best"]["slices"] = {attack: {"estimate": 0.0, "high": 0.01, "lost": 1, "gained": 0, "examples": 5}}
    result["baseline"]["name"] = f"baseline {attack}"
    for candidate in result["candidates"]:
        candidate.update(name=attack, reason=attack, why_not_faster=[attack], runtime=attack, techniques=[attack])
        candidate["operations"] = [{"name": attack, "kind": attack, "ms": 1.0, "role": attack, "precision": attack}]
    result["confirmations"] = [{"name": attack, "passed": False, "reason": attack}]
    for layer in result["profile"]["layers"]:
        layer.update(name=attack, type=attack)
    result["profile"]["suggestions"] = [{"what": attack, "why": attack, "at_most_speedup": 2.0}]


def _tuning(result: dict[str, Any], *, passed: bool = True) -> None:
    """A tuning whose best set-up was judged by trainings over five seeds; it stays the best where it passed."""
    for name in ("drop", "gate", "artifact", "slices", "worst_slice"):
        result["best"].pop(name, None)
    for name in ("objective", "max_drop", "limits", "noise_floor", "accuracy", "pareto", "profile", "confirmations"):
        result.pop(name, None)
    worse_by = {"estimate": 0.01 if passed else 0.31, "low": -0.01, "high": 0.03 if passed else 0.42}
    reason = "its loss is higher by 1.0%, at most 3.0% (95%), where 5.0% is allowed" if passed else "it trains worse"
    trial = {
        "name": result["best"]["name"],
        "answer": "as good" if passed else "worse",
        "reason": reason,
        "seeds": 5,
        "margin": 0.05,
        "detectable_margin": 0.04,
        "worse_by": worse_by,
    }
    places = [100.0 * (index + 0.5) for index in range(30)]
    own = [[3.0 * 0.9**step + 0.01 * seed for step in range(30)] for seed in range(5)]
    tuned = [[loss * (1.01 if passed else 1.31) for loss in curve] for curve in own]
    result.update(
        kind="tune",
        proof="short",
        confirmed=passed,
        proof_details={
            "kind": "short",
            "own": "fp32",
            "compared": "loss",
            "judged": True,
            "trials": [trial],
            "curves": {"examples": places, "own": own, "tuned": tuned, "tail_from": 2000.0},
        },
    )
    if not passed:
        one = {"estimate": 1.0, "low": 1.0, "high": 1.0}
        result["best"] = {**result["baseline"], "speedup": one}


def _tuning_refused(result: dict[str, Any]) -> None:
    """What was faster trains worse."""
    _tuning(result, passed=False)


VARIATIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "sample": lambda result: None,
    "without_winner": _without_winner,
    "all_failed": _all_failed,
    "agreement": _agreement,
    "minimal": _minimal,
    "many": _many,
    "unconfirmed": _unconfirmed,
    "hostile": _hostile,
    "tuning": _tuning,
    "tuning_refused": _tuning_refused,
}


@pytest.fixture(params=VARIATIONS)
def variation(request: pytest.FixtureRequest, sample: dict[str, Any]) -> dict[str, Any]:
    """Each kind of result that a page must show."""
    VARIATIONS[request.param](sample)
    return sample


@pytest.fixture
def vary(sample: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """The sample, varied by name."""

    def varied(name: str) -> dict[str, Any]:
        VARIATIONS[name](sample)
        return sample

    return varied
