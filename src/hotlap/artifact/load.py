"""Loading an artifact: checked, proven on its golden inputs, and called as the model was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hotlap import runtimes
from hotlap.artifact import golden as goldens
from hotlap.artifact.check import Checked, about, check_artifact, require_fresh, require_trust
from hotlap.artifact.golden import Case
from hotlap.artifact.manifest import GOLDEN, Manifest
from hotlap.artifact.sign import Trust, Wanted
from hotlap.core import Array, Device, Session, Signature
from hotlap.errors import ArtifactRefused, InputError, MissingExtra
from hotlap.runtimes.streams import Streams, streams
from hotlap.workload.inputs import nest


class LoadedModel:
    """A loaded artifact, called with NumPy arrays as the model is with tensors: `m(x)`, `m(a, b)`, `m(name=x)`.

    It gives NumPy arrays nested as the model's outputs are. Up to `streams` threads may call it at once, and `map`
    does; where that is 1, load it once a thread for that.
    """

    def __init__(self, manifest: Manifest, trust: Trust, session: Session, golden: Sequence[Case]) -> None:
        self.manifest, self.trust, self.golden = manifest, trust, golden
        self._session = session
        self._lanes: Streams | None = None

    @property
    def signature(self) -> Signature:
        """Names, types and shapes of the inputs and outputs."""
        return self.manifest.signature

    def __call__(self, *args: Array, **kwargs: Array) -> Any:
        return nest(self.signature.output_tree, self.call_flat(bind(self.signature, args, kwargs)))

    def call_flat(self, arrays: list[Array]) -> list[Array]:
        """Outputs in signature order for arrays in signature order, which are taken as they are, unchecked."""
        return self._session(arrays)

    @property
    def streams(self) -> int:
        """How many calls it is made to run at the same time: 1 unless it was chosen for its throughput."""
        return streams(dict(self.manifest.candidate.options))

    def map(self, calls: Iterable[Any]) -> Iterator[Any]:
        """Outputs for many calls, in their order, as many side by side as it has streams.

        Each call is what the model takes: an array, a tuple of arrays, or a dict of them by name.
        """
        if self._lanes is None:
            self._lanes = Streams(self._session, self.streams)
        bound = (bind(self.signature, *_arguments(call)) for call in calls)
        return (nest(self.signature.output_tree, outputs) for outputs in self._lanes.map(bound))

    def __repr__(self) -> str:
        inputs = ", ".join(f"{s.name}: {s.dtype}{list(s.shape)}" for s in self.signature.inputs)
        return f"<{self.manifest.workload} as {self.manifest.candidate.name}, {self.trust}; inputs {inputs}>"


def load(
    artifact: str | Path,
    *,
    device: Device | None = None,
    threads: int | None = None,
    trust: Wanted | None = None,
    allow_expired: bool = False,
) -> LoadedModel:
    """Load an artifact and give a callable.

    device, threads: default to what it was proven with, threads to no more than the cores that are ours. trust: the
    least that is asked for, `signed` or `made here`; code needs one of them in any case.

    Raises TargetError where there is no such folder, and ArtifactRefused, with the reason, where it is damaged,
    changed, expired or not trusted, or where its golden inputs no longer give the answers they gave.
    """
    checked = check_artifact(artifact)
    with about(checked.folder):
        require_trust(checked.manifest, checked.trust, trust)
        require_fresh(checked.manifest, allow_expired=allow_expired)
        session = start(checked, device=device, threads=threads)
        cases = goldens.decode(checked.files[GOLDEN], checked.manifest.signature, GOLDEN)
        require_same_answers(checked.manifest, session, cases)
    return LoadedModel(checked.manifest, checked.trust, session, cases)


def start(checked: Checked, *, device: Device | None = None, threads: int | None = None) -> Session:
    """Hand the checked bytes to their runtime. Raises ArtifactRefused for code that nobody trusted vouches for."""
    require_trust(checked.manifest, checked.trust)
    candidate = checked.manifest.candidate
    runtime = runtimes.of(candidate)
    device = device or candidate.device
    if device != "cpu":
        reason = runtime.unavailable(device)
        if reason:
            raise InputError(f"{checked.folder} can't run on {device} here: {reason}")
    try:
        return runtime.load(
            checked.runtime_files,
            checked.manifest.signature,
            device=device,
            threads=threads or min(candidate.threads, len(os.sched_getaffinity(0))),
            options=dict(candidate.options),
        )
    except ImportError as error:
        raise MissingExtra(f"{checked.folder} can't run here: {runtime.unavailable(device) or error}") from error
    except Exception as error:
        # Runtimes raise classes of their own that share no base, and what the files hold decides which.
        raise ArtifactRefused(f"{candidate.runtime} can't load it: {_brief(error)}") from error


def require_same_answers(manifest: Manifest, session: Session, cases: Sequence[Case]) -> float:
    """Run the golden inputs. Gives how far the answers are off, as a share of each output's largest magnitude.

    Raises ArtifactRefused where that is more than the artifact allows.
    """
    answers = [_answer(manifest, session, case.inputs) for case in cases]
    difference = goldens.difference(cases, answers)
    if difference <= manifest.golden_tolerance:
        return difference
    raise ArtifactRefused(
        f"its golden inputs no longer give the answers they gave: they are off by {difference:.2%} of the outputs' "
        f"range, and {manifest.golden_tolerance:.2%} is allowed; it was proven with {_versions(manifest)} on "
        f"{manifest.made_by.instruction_set}, so make it again on this machine"
    )


def _answer(manifest: Manifest, session: Session, inputs: Any) -> list[Array]:
    try:
        arrays = bind(manifest.signature, tuple(inputs), {})
    except InputError as error:
        raise ArtifactRefused(f"{GOLDEN} does not fit its signature: {error}") from None
    try:
        answer = session(arrays)
    except Exception as error:
        # As in `start`: the runtime's own classes.
        raise ArtifactRefused(f"{manifest.candidate.runtime} can't run it: {_brief(error)}") from error
    wanted = manifest.signature.outputs
    if [(a.dtype.name, a.ndim) for a in answer] != [(spec.dtype, len(spec.shape)) for spec in wanted]:
        found = ", ".join(f"{a.dtype.name} with {a.ndim} axes" for a in answer)
        raise ArtifactRefused(f"its outputs are {found}, which is not what its signature says")
    return answer


def _versions(manifest: Manifest) -> str:
    packages = manifest.made_by.packages
    names = [name for name in runtimes.of(manifest.candidate).PACKAGES if name in packages]
    return ", ".join(f"{name} {packages[name]}" for name in names) or manifest.candidate.runtime


def _brief(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    shown = "".join(c if c.isprintable() else "?" for c in line[:300])
    return f"{type(error).__name__}: {shown}"


def _arguments(call: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(call, Mapping):
        return (), call
    return (call if isinstance(call, tuple) else (call,)), {}


def bind(signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Array]:
    """The arrays of a call in signature order, checked against it. Raises InputError, naming the input.

    Only what changes no value is done to an array: a narrower whole number or float of the same kind is widened,
    bytes are brought into the machine's order, and memory is made contiguous.
    """
    names = [spec.name for spec in signature.inputs]
    if len(args) > len(names):
        raise InputError(f"the model takes {_listed(names)}, but {len(args)} arrays were given")
    given: dict[str, Any] = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            raise InputError(f"the model has no input {name!r}; it takes {_listed(names)}")
        if name in given:
            raise InputError(f"input {name!r} is given twice, by place and by name")
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"the model takes {_listed(names)}; {_listed(missing)} is missing")
    arrays = [_converted(given[spec.name], spec.name, spec.dtype) for spec in signature.inputs]
    _check_shapes(signature, arrays)
    return arrays


def _converted(value: Any, name: str, dtype: str) -> Array:
    if not isinstance(value, np.ndarray):
        raise InputError(f"input {name!r} must be a NumPy array of {dtype}, not {type(value).__name__}")
    wanted = np.dtype(dtype)
    widens = value.dtype.kind == wanted.kind and np.can_cast(value.dtype, wanted, "safe")
    if not widens:
        raise InputError(
            f"input {name!r} must be {dtype}, not {value.dtype}; if that is meant, give it .astype(np.{dtype})"
        )
    return np.asarray(value, dtype=wanted, order="C")


def _check_shapes(signature: Signature, arrays: list[Array]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for spec, array in zip(signature.inputs, arrays, strict=True):
        where = f"input {spec.name!r} must have shape {list(spec.shape)}, not {list(array.shape)}"
        if array.ndim != len(spec.shape):
            raise InputError(where)
        for wanted, size in zip(spec.shape, array.shape, strict=True):
            if isinstance(wanted, int):
                if size != wanted:
                    raise InputError(where)
                continue
            before, other = sizes.setdefault(wanted, (size, spec.name))
            if size != before:
                raise InputError(f"{where}: {wanted!r} is {before} in input {other!r}")
            low, high = signature.ranges.get(wanted, (0, None))
            if size < low or (high is not None and size > high):
                limit = f"at least {low}" if high is None else f"from {low} to {high}"
                raise InputError(f"{where}: {wanted!r} must be {limit}")


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
