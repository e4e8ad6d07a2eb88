"""The frozen values that travel between the parts.

Nothing here does work or imports torch or a runtime. `to_json`/`from_json` turn each value into plain JSON and
back, so that a journal, a result or a manifest holds exactly what a function took.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Json: TypeAlias = Any
Array: TypeAlias = "np.ndarray[Any, Any]"
Form: TypeAlias = Literal["module", "exported", "onnx", "openvino"]
Device: TypeAlias = Literal["cpu", "cuda"]

TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 3e-2, "int8": 5e-2}
"""By how much outputs of one format may differ between two ways of computing the same thing (another runtime, batch
size or machine), as a share of the output's largest magnitude: a few hundred roundings of that format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with the two ends of its interval, in the unit of the estimate."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output. `shape` has an int for a fixed axis, the axis's name for one that varies.

    `dtype` is NumPy's name of it (`float32`, `int64`, `bool`).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How the model is called, flat: `inputs` in the order of `forward`'s parameters, `outputs` in pytree order.

    `input_kind` is how the user's `inputs` look. `output_tree` nests the flat outputs again: a JSON value that is
    an int (index of a leaf), `{"tuple": [...]}`, `{"list": [...]}`, `{"dict": {key: ...}}`,
    `{"dataclass": {field: ...}}` or None.
    `ranges` gives for each named axis its smallest and largest size (None: no limit known).
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    input_kind: Literal["tensor", "tuple", "dict"]
    output_tree: Json
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Json) -> Signature:
        def spec(item: Json) -> TensorSpec:
            return TensorSpec(name=item["name"], dtype=item["dtype"], shape=tuple(item["shape"]))

        return cls(
            inputs=tuple(spec(item) for item in data["inputs"]),
            outputs=tuple(spec(item) for item in data["outputs"]),
            input_kind=data["input_kind"],
            output_tree=data["output_tree"],
            ranges={name: (low, high) for name, (low, high) in data["ranges"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One technique with its options, as (name, value) pairs in the order of their names."""

    technique: str
    options: tuple[tuple[str, Json], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A chain of techniques, one runtime and its options. The search sees nothing else.

    `precision` is fp32, bf16, fp16 or int8: the narrowest number format that the chain brings in.
    `same_numbers` is true where weights and number format are the original's.
    """

    steps: tuple[Step, ...] = ()
    runtime: str
    device: Device = "cpu"
    threads: int
    options: tuple[tuple[str, Json], ...] = ()
    precision: str = "fp32"
    same_numbers: bool = True
    name: str

    @property
    def key(self) -> str:
        """A digest that tells this candidate from every other, stable between runs."""
        return hashlib.sha256(json.dumps(to_json(self), sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, data: Json) -> Candidate:
        def pairs(items: Json) -> tuple[tuple[str, Json], ...]:
            return tuple((name, value) for name, value in items)

        steps = tuple(Step(technique=s["technique"], options=pairs(s["options"])) for s in data["steps"])
        return cls(**{**data, "steps": steps, "options": pairs(data["options"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model on its way through techniques: `value` is what `form` says.

    `module`: torch.nn.Module; `exported`: torch.export.ExportedProgram; `onnx` and `openvino`: the Path of a .onnx
    or .xml file. A technique returns a new one and leaves the one it was given alone.
    """

    form: Form
    value: Any
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a technique may use besides the model.

    `calibration()` gives the calibration inputs anew each time, each a list of arrays in signature order; None
    where the workload has none. `folder` is an empty folder of its own. `example` is one batch of inputs.
    """

    folder: Any
    example: list[Array]
    calibration: Callable[[], Iterable[list[Array]]] | None
    seed: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Time of one operation of a runtime, in ms a call. `role`: compute, quantize, layout, or other."""

    name: str
    kind: str
    ms: float
    role: Literal["compute", "quantize", "layout", "other"]
    precision: str | None = None


class Session(Protocol):
    """A loaded model: takes and gives arrays in signature order."""

    def __call__(self, arrays: list[Array]) -> list[Array]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Baseline and candidate timed in turn in one pair of processes.

    `baseline_ms[i]` and `candidate_ms[i]` are the times of one call, in ms, as measured in the i-th pair of
    neighbouring blocks (median over the block's calls).
    """

    baseline_ms: tuple[float, ...]
    candidate_ms: tuple[float, ...]

    @classmethod
    def from_json(cls, data: Json) -> Start:
        return cls(baseline_ms=tuple(data["baseline_ms"]), candidate_ms=tuple(data["candidate_ms"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Score lost against the original: `high` is the upper end of the one-sided interval at `confidence`.

    `lost` and `gained` count examples that flipped from right to wrong and back (0/1 scores; otherwise examples
    whose score went down and up).
    """

    estimate: float
    high: float
    confidence: float
    examples: int
    lost: int
    gained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a candidate may stand in for the original, by which rule, and why (a sentence)."""

    passed: bool
    rule: Literal["drop", "equivalence", "agreement"]
    reason: str
    drop: Drop | None = None
    distance: float | None = None
    examples_needed: int | None = None
    worst_slice: str | None = None
    slices: Mapping[str, Drop] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Json) -> Verdict:
        drop = Drop(**data["drop"]) if data["drop"] else None
        slices = {name: Drop(**item) for name, item in data["slices"].items()}
        return cls(**{**data, "drop": drop, "slices": slices})


def to_json(value: Any) -> Json:
    """Turn a frozen value into plain JSON (dicts, lists, strings, numbers, None)."""
    return json.loads(json.dumps(asdict(value)))
