"""What a result says, in a few sentences: how much faster, as accurate, to be trusted? Pure.

Page and terminal share it. It claims no more than the figures do: a gain inside the noise is none, a drop whose
upper end passes the allowed one is unproven, and a winner that was not confirmed is called so, whatever else the
result says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.wording import at, number

Tone: TypeAlias = Literal["yes", "unproven", "no"]
_IN_TABLE = "Each candidate's reason is in the table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: a few words, the sentences behind it, and whether it is a yes."""

    value: str
    details: tuple[str, ...]
    tone: Tone


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    title: str
    lead: str
    tone: Tone
    gain: Answer
    accuracy: Answer
    trust: Answer


def headline(result: Json) -> Headline:
    """The headline of any result.json that fits the schema."""
    gain, accuracy, trust = _gain(result), _accuracy(result), _trust(result)
    title, tone = _title(result, gain, accuracy, trust)
    return Headline(title=title, lead=_lead(result), tone=tone, gain=gain, accuracy=accuracy, trust=trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How many changes a tuning tried, and how many its budget left no time for."""

    changes: int
    left: int

    @property
    def sentence(self) -> str:
        """That time was short, and what to do; empty where it was not."""
        if not self.left:
            return ""
        of = self.changes + self.left
        several = f"{of} change{'' if of == 1 else 's'}"
        if not self.changes:
            which = f"None of {several} could" if of > 1 else "The one change that makes sense here could not"
            return f"{which} be tried within the budget; give more with --budget"
        return f"Only {self.changes} of {several} could be tried within the budget; give more with --budget"


def tried(result: Json) -> Tried:
    """What a tuning had time for, as its candidates say."""
    left = len(result.get("left_untried") or [])
    return Tried(changes=sum(one["status"] != "skipped" for one in result["candidates"]), left=left)


def changed(result: Json) -> bool:
    """Whether something other than the baseline came out best."""
    if result["kind"] == "tune":
        return bool(result.get("confirmed", False))
    return bool(result["best"]["name"] != result["baseline"]["name"])


def _title(result: Json, gain: Answer, accuracy: Answer, trust: Answer) -> tuple[str, Tone]:
    if not changed(result):
        return _nothing_won(result), "no"
    if result["kind"] in ("tune", "train"):
        return gain.value, gain.tone
    if gain.tone != "yes":
        return gain.value, gain.tone
    if trust.tone != "yes":
        return f"{gain.value}, not confirmed", "unproven"
    claims = {"Same numbers": "with the same numbers", "Not measured": "accuracy not measured"}
    proven = "accuracy held" if accuracy.tone == "yes" else "accuracy not proven"
    return f"{gain.value}, {claims.get(accuracy.value, proven)}", accuracy.tone


def _nothing_won(result: Json) -> str:
    candidates = result.get("candidates", [])
    if result["kind"] in ("tune", "train"):
        if not candidates:
            return "Trained"
        return (
            "The settings of today stay" if tried(result).changes else "Nothing was tried: the settings of today stay"
        )
    if not any(number(candidate.get("median_ms")) for candidate in candidates):
        return "No candidate could be measured: the original stays"
    if result.get("nearest_miss"):
        return "Nothing faster passed the gate: the original stays"
    return "Nothing was faster: the original stays"


def _lead(result: Json) -> str:
    best, baseline = result["best"], result["baseline"]
    both = best.get("threads") == baseline.get("threads")
    call = "a training step" if result["kind"] in ("tune", "train") else "a call"
    settings = ", ".join(
        text
        for text in (
            f"batch {result['batch']}" if "batch" in result else "",
            _threads(best.get("threads")) if both or not changed(result) else "",
            result.get("device", "").replace("cuda", "CUDA").replace("cpu", "CPU"),
        )
        if text
    )
    settings = f" ({settings})" if settings else ""
    if not changed(result):
        return f"{baseline['name']} takes {wording.milliseconds(baseline['median_ms'])} {call}{settings}."
    on, on_before = ("", "") if both else (f" on {_threads(side.get('threads'))}" for side in (best, baseline))
    if result.get("objective") == "throughput" and "batch" in result:
        now, before = (
            wording.rate(1000 * result["batch"] / side["median_ms"], "examples") for side in (best, baseline)
        )
        gains = f"{best['name']} gives {now}{on} where {baseline['name']} gives {before}{on_before}"
        return f"{gains}{settings}.{_at_once(best)}"
    return (
        f"{best['name']} takes {wording.milliseconds(best['median_ms'])} {call}{on} where {baseline['name']} "
        f"takes {wording.milliseconds(baseline['median_ms'])}{on_before}{settings}."
    )


def _at_once(best: Json) -> str:
    """How to call what was chosen for several calls at once; without that its figures don't hold."""
    count = number(at(best, "options", "streams"))
    if not count:
        return ""
    return f" That is of {count:.0f} calls at once: by the loaded model's map, or from as many threads."


def _threads(threads: Json) -> str:
    return "" if number(threads) is None else f"{threads} thread{'' if threads == 1 else 's'}"


def _gain(result: Json) -> Answer:
    if not changed(result):
        return _no_gain(result)
    best = result["best"]
    ratio = wording.ratio(best.get("speedup"))
    if result.get("objective") == "size":
        return _smaller(result, ratio)
    if ratio is None:
        return Answer(value="Gain unknown", details=("No speed-up was recorded",), tone="unproven")
    details = [f"Between {ratio.low} and {ratio.high} times {_over(result)}"] if ratio.low else []
    floor = number(result.get("noise_floor"))
    low = number(at(best, "speedup", "low"))
    beyond = low is not None and low > 1 + (floor or 0.0)
    if floor is not None:
        details.append(f"Differences below {wording.percent(floor)} can't be told from noise here")
    eager = wording.ratio(best.get("speedup_over_eager"))
    if eager and best["speedup_over_eager"] != best.get("speedup"):
        details.append(f"{eager.estimate}× ({eager.interval}) over the original in eager mode")
    what = {"throughput": "the throughput"}.get(result.get("objective", ""), "faster")
    if result["kind"] == "tune" and tried(result).left:
        details.append(tried(result).sentence)
    if not beyond:
        return Answer(value=f"{ratio.estimate}×: no gain beyond the noise", details=tuple(details), tone="no")
    return Answer(value=f"{ratio.estimate}× {what}", details=tuple(details), tone="yes")


def _no_gain(result: Json) -> Answer:
    if result["kind"] != "tune":
        return Answer(value="No gain", details=_nearest_miss(result), tone="no")
    found = tried(result)
    if not found.changes:
        value = "Nothing was tried" if found.left else "Nothing to try"
        return Answer(
            value=value, details=_sentences(found.sentence or _IN_TABLE), tone="unproven" if found.left else "no"
        )
    return Answer(value="No gain", details=_sentences(found.sentence, *_nearest_miss(result)), tone="no")


def _over(result: Json) -> str:
    if result["kind"] in ("prune", "distill"):
        return "the speed of the original in the same runtime, precision and threads"
    return f"the speed of {result['baseline']['name']}"


def _smaller(result: Json, ratio: wording.Ratio | None) -> Answer:
    before, after = number(at(result, "baseline", "bytes")), number(at(result, "best", "bytes"))
    speed = f"{ratio.estimate}× its speed ({ratio.interval or 'no interval'})" if ratio else ""
    if not before or not after:
        return Answer(value="Size unknown", details=_sentences(speed), tone="unproven")
    sizes = f"{wording.byte_size(after)} instead of {wording.byte_size(before)}"
    smaller = before / after
    value = f"{wording.significant(smaller, 2)}× smaller" if smaller > 1 else "Not smaller"
    return Answer(value=value, details=_sentences(sizes, speed), tone="yes" if smaller > 1 else "no")


def _nearest_miss(result: Json) -> tuple[str, ...]:
    miss = result.get("nearest_miss")
    if not miss:
        unknown = any(candidate["status"] != "skipped" for candidate in result.get("candidates") or [])
        return (_IN_TABLE,) if unknown else ()
    distance = number(miss.get("distance"))
    by = f", {wording.significant(distance, 2)} past the gate" if distance is not None else ""
    return (f"Nearest miss: {miss['name']}{by}", str(miss.get("reason", "")))


def _accuracy(result: Json) -> Answer:
    best, gate = result["best"], result["best"].get("gate")
    if result["kind"] in ("tune", "train"):
        return _proof(result)
    if not changed(result):
        return Answer(value="Unchanged", details=("It is the original",), tone="yes")
    loss = wording.loss(best.get("drop"), result.get("max_drop"))
    unmeasured = "Accuracy was not measured: only outputs were compared with the original's"
    if gate == "agreement":
        details = _sentences(best.get("gate_reason"), unmeasured)
        return Answer(value="Not measured", details=details, tone="unproven")
    proven = _within(at(best, "drop", "high"), result.get("max_drop"))
    allowed = f"Allowed: {wording.allowed(result.get('max_drop'))}"
    if gate == "equivalence":
        unproven = f"The examples alone would leave a drop of up to {loss.high} possible" if loss.high else ""
        if result.get("accuracy") == "agreement":
            unproven = unmeasured
        details = _sentences(_equivalence(best), best.get("gate_reason"), "" if proven else unproven)
        return Answer(value="Same numbers", details=details, tone="yes")
    if not loss.high:
        return Answer(value="Drop unknown", details=_sentences(best.get("gate_reason"), allowed), tone="unproven")
    details = _sentences(
        f"{allowed}; estimate {loss.estimate or 'unknown'}; with 95% confidence no more than {loss.high}",
        f"Flipped: {loss.flips}" if loss.flips else "",
    )
    return Answer(value=f"At most {loss.high} lost", details=details, tone="yes" if proven else "unproven")


def _proof(result: Json) -> Answer:
    proof, trials = result.get("proof"), at(result, "proof_details", "trials") or []
    if trials and not changed(result):
        details = tuple(f"{trial['name']}: {trial['reason']}" for trial in trials)
        passed = trials[-1].get("answer") == "as good"
        value = "What is as good was not shown to be faster" if passed else "What is faster was not shown to be"
        return Answer(value=value, details=details, tone="no")
    if not changed(result) and result["kind"] == "tune":
        return Answer(value="As today", details=("Nothing was changed",), tone="yes")
    words = {"pending": "Proof pending", "short": "Proven in a short run", "full": "Proven in a full run"}
    details = _sentences(trials[-1]["reason"]) if trials else ()
    if proof == "short":
        details = (*details, "That says nothing of the final score: --prove full trains to the end")
    if proof == "pending":
        details = (
            *details,
            "`hotlap tune --prove short` compares the loss of short trainings, `--prove full` the score of whole ones",
        )
    tone: Tone = "yes" if proof == "full" else "unproven"
    return Answer(value=words.get(str(proof), "Not compared"), details=details, tone=tone)


def _equivalence(best: Json) -> str:
    difference = wording.significant(at(best, "equivalence", "largest_relative_difference"), 2)
    tolerance = wording.significant(at(best, "equivalence", "tolerance"), 2)
    if not difference:
        return "Judged by numerical equivalence with the original"
    held_to = f"tolerance {tolerance}" if tolerance else "tolerance not stated"
    return f"Outputs differ from the original's by at most {difference} (relative; {held_to})"


def _within(high: Json, max_drop: Json) -> bool:
    figure, limit = number(high), number(max_drop)
    return figure is not None and limit is not None and figure <= limit


def _trust(result: Json) -> Answer:
    if not changed(result):
        return Answer(value="Nothing to prove", details=("Nothing was changed",), tone="yes")
    if not result.get("confirmed", False):
        why = "Its figures come from the data that chose it, so they flatter it"
        return Answer(value="Not confirmed", details=(why,), tone="unproven")
    examples = number(at(result, "examples", "confirmation"))
    on = f", on {wording.count(examples)} examples that chose nothing" if examples else ""
    failed = [one for one in result.get("confirmations") or [] if not one.get("passed")]
    others = f"Dropped because they failed this: {len(failed)} that looked better" if failed else ""
    details = _sentences(f"Measured again in fresh processes{on}", others)
    return Answer(value="Confirmed", details=details, tone="yes")


def _sentences(*texts: Json) -> tuple[str, ...]:
    return tuple(str(text) for text in texts if text)
