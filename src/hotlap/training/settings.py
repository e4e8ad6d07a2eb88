"""How a model is trained: one frozen value, checked before any work, kept as `settings.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from hotlap.core import Device, Json
from hotlap.errors import InputError
from hotlap.search.folder import write_whole
from hotlap.workload.workload import Workload

Precision = Literal["fp32", "bf16", "fp16"]
Layout = Literal["contiguous", "channels_last"]
Attention = Literal["default", "math"]
Schedule = Literal["constant", "linear", "cosine", "one_cycle"]
_MOST_PROCESSES = 1024
"""More threads or loader processes than any machine has cores end in a crash without a word."""
_LARGEST = 2**31 - 1
"""No count that makes sense is larger, and floats hold it."""
_MOST_BUCKETS = 16
"""Each is one more walk through all gradients; from two to four are faster, where any are."""
Sharding = Literal["ddp", "fsdp2"]
OF_THE_TRAINING = ("batch_size", "epochs", "accumulation", "clip", "ema", "schedule", "warmup", "early_stop")
"""Settings that say what is learnt; the others say how steps are computed, and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that decides how a run trains; two runs with equal settings on one machine give equal weights.

    batch_size: examples in an optimizer's step, over all processes. micro_batch: examples in a forward pass; None:
        all that a process has of a step. accumulation: batches in a step, where the data is an iterable of batches.
    precision: bf16 and fp16 are autocast, weights stay fp32. layout: of 4-D weights and inputs.
    trim: columns that are padding in every row of a batch are cut off, where that changes nothing.
    length_buckets: a pass is computed in up to so many passes by the length of its rows, each trimmed (with `trim`).
    attention: math is torch's scaled_dot_product_attention as plain matrix products.
    fast_dropout: dropout's masks are drawn by a faster generator on the CPU (`masks`).
    at_once: the Dataset is indexed once for a batch, with an array, where that gives the same bits.
    keep_memory: what tensors free on the CPU stays with the process, for as long as it lives (`heap`).
    fused: the optimizer's one-kernel form; foreach: that of one call for all parameters.
    checkpointing: recompute each repeated layer's activations.
    clip: largest norm of all gradients. ema: decay of an average of the weights, which is then what is kept.
    schedule: of the learning rate, after `warmup` steps of a linear rise. early_stop: epochs without a better score.
    workers: loader processes; prefetch: batches each of them reads ahead. pin: page-locked memory (CUDA).
    sharding: how several processes share the model. checkpoint_seconds: at most so much work is lost to a kill.
    """

    batch_size: int = 64
    epochs: int = 1
    micro_batch: int | None = None
    accumulation: int = 1
    precision: Precision = "fp32"
    layout: Layout = "contiguous"
    compile: bool = False
    trim: bool = False
    length_buckets: int = 1
    attention: Attention = "default"
    fast_dropout: bool = False
    at_once: bool = False
    keep_memory: bool = False
    fused: bool = False
    foreach: bool = False
    checkpointing: bool = False
    clip: float | None = None
    ema: float | None = None
    schedule: Schedule = "constant"
    warmup: int = 0
    early_stop: int | None = None
    workers: int = 0
    prefetch: int = 2
    pin: bool = False
    sharding: Sharding = "ddp"
    seed: int = 0
    threads: int = 1
    device: Device = "cpu"
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Raises InputError, naming the field, for a value that it can't have."""
        for name, value in asdict(self).items():
            _check_type(name, value)
        for name in ("batch_size", "epochs", "micro_batch", "accumulation", "early_stop", "prefetch"):
            _check_range(name, getattr(self, name), 1, _LARGEST)
        _check_range("warmup", self.warmup, 0, _LARGEST)
        _check_range("threads", self.threads, 1, _MOST_PROCESSES)
        _check_range("workers", self.workers, 0, _MOST_PROCESSES)
        _check_range("seed", self.seed, 0, 2**64 - 1)
        if not 0 <= self.checkpoint_seconds < math.inf:
            raise InputError(f"settings: checkpoint_seconds is {self.checkpoint_seconds}; give seconds from 0 on")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise InputError(f"settings: ema is {self.ema}; it must be from 0 up to but not 1")
        if self.fused and self.foreach:
            raise InputError("settings: fused and foreach are two forms of the optimizer; give one of them")
        _check_range("length_buckets", self.length_buckets, 1, _MOST_BUCKETS)
        if self.length_buckets > 1 and not self.trim:
            raise InputError(
                "settings: length_buckets leaves out padding, as trim does; give trim=true with it, or length_buckets=1"
            )
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise InputError(f"settings: clip is {self.clip}; give a norm above 0, or leave it out")

    @property
    def examples_a_pass(self) -> int:
        """The most examples in one forward pass of one process."""
        return min(self.micro_batch or self.batch_size, self.batch_size)

    def for_comparing(self) -> Settings:
        """With steps as plain as can be, in fp32: what one change makes of them shows in their last digits."""
        plain: Any = {"trim": False, "precision": "fp32", "compile": False, "checkpointing": False}
        plain |= {"length_buckets": 1, "attention": "default", "fast_dropout": False}
        return replace(self, **plain, workers=0, pin=False)

    def to_json(self) -> Json:
        """As `settings.json` holds it."""
        return asdict(self)


def settings_for(workload: Workload, changes: Mapping[str, Json]) -> Settings:
    """What the user trains with today, with `changes` by field name. Raises InputError for an unknown or bad one."""
    known = [field.name for field in fields(Settings)]
    for name in changes:
        if name not in known:
            raise InputError(f"settings: there is no {name!r}; there are {', '.join(known)}")
    return replace(Settings(**own_settings(workload)), **changes)


def check_early_stop(workload: Workload, settings: Settings) -> None:
    """Raise InputError where training is to stop by a score that the workload does not have."""
    if settings.early_stop is not None and workload.evaluation is None:
        raise InputError("settings: early_stop needs a score to stop by: give the workload `evaluation` and `score`")


def beside_the_workload(settings: Json) -> list[str]:
    """What is learnt beside what a workload says, as in `clip=1.0`."""
    usual = Settings().to_json()
    names = [name for name in OF_THE_TRAINING if name not in ("batch_size", "epochs")]
    return [f"{name}={settings[name]}" for name in names if settings[name] != usual[name]]


def write_settings(
    path: Path, settings: Settings, *, target: str, digest: str, own: Json, threads_chosen: bool, **others: Json
) -> None:
    """Write settings as `read_settings` takes them again, with what they are for: a target, and its file's `digest`.

    own: what the workload itself said (`own_settings`). threads_chosen: whether a person chose the number of threads.
    others: what a command notes besides. Raises OutputError.
    """
    noted = {
        "target": target,
        "workload_digest": digest,
        "settings": settings.to_json(),
        "own": own,
        "threads_chosen": threads_chosen,
        **others,
    }
    write_whole(path, json.dumps(noted, indent=1).encode() + b"\n")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file that `hotlap tune` or `hotlap train` wrote, or a person did: field names and values.

    Left out is what nobody chose: threads, which are those of the machine, shared by the processes there were, and
    what the workload itself said then, which may say something else by now. Raises InputError where there is no such
    file, or it holds no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); give the settings.json of a run") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); give the settings.json of a run") from error
    inner = found.get("settings", found) if isinstance(found, dict) else found
    if not isinstance(inner, dict):
        raise InputError(f"{path}: holds no object with settings by name")
    left_out = set() if found.get("threads_chosen", True) else {"threads"}
    own = found.get("own")
    if inner is not found and isinstance(own, dict):
        left_out |= {name for name, value in own.items() if inner.get(name) == value}
    return {name: value for name, value in inner.items() if name not in left_out}


def own_settings(workload: Workload) -> Json:
    """What the workload itself says of how it is trained, by the names of settings."""
    return {"batch_size": workload.batch_size, "epochs": workload.epochs}


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """`name=value` as a person types it, by field name; `none` clears a field. Raises InputError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set {text}: write it as name=value, as in precision=bf16")
        plain = {"true": True, "yes": True, "false": False, "no": False, "none": None}
        found[name.strip()] = plain[value.lower()] if value.lower() in plain else _number_or_text(value)
    return found


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_IN_WORDS = {type(None): "none", int: "a whole number", float: "a number", bool: "true or false"}


def _check_type(name: str, value: Any) -> None:
    hint = get_type_hints(Settings)[name]
    choices = [one for part in (hint, *get_args(hint)) for one in get_args(part) if isinstance(one, str)]
    if choices:
        if value not in choices:
            given = "none" if value is None else repr(value)
            raise InputError(f"settings: {name} is {given}; give one of {', '.join(choices)}")
        return
    kinds = tuple(one for one in (get_args(hint) or (hint,)) if isinstance(one, type))
    wanted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(_IN_WORDS[kind] for kind in kinds)
        raise InputError(f"settings: {name} is {value!r}; give {names}")


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        given = value if abs(value) < 2**64 else "too large" if value > 0 else "below 0"
        allowed = f"from {low} on" if value < low and high >= _LARGEST else f"from {low} to {high}"
        raise InputError(f"settings: {name} is {given}; it must be {allowed}")
