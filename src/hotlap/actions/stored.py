"""The stored features that a workload's inputs are made of, as its feature repository defines them now."""

from __future__ import annotations

from pathlib import Path

from hotlap.artifact.stored import StoredFeatures, changed, parse
from hotlap.core import Json, Signature
from hotlap.errors import ArtifactRefused, CandidateFailed, InputError
from hotlap.report.schema import read_result
from hotlap.search.setting import start_worker

_SECONDS = 120.0


def stored_features(wanted: Json, signature: Json = None) -> Json:
    """What `wanted` (as workload.features.to_ask gives it) is in its repository: StoredFeatures as JSON, or None.

    A process of its own asks, which spares this one Feast. Raises InputError for what the repository lacks, and, with
    a signature, for what can't be that input's.
    """
    if wanted is None:
        return None
    with start_worker(1, None) as worker:
        try:
            return worker.call("hotlap.features.described:of_workload", **wanted, signature=signature, timeout=_SECONDS)
        except CandidateFailed as error:
            raise InputError(f"{wanted['repo']}: the feature repository can't be read: {error}") from error


def checked_features(wanted: Json, signature: Json, target: str) -> StoredFeatures | None:
    """The same for an artifact: of types that the inputs can hold, and as they were when the weights were trained.

    Raises InputError where the folder after @ in `target` was trained with others.
    """
    stored = stored_features(wanted, signature)
    now = None if stored is None else parse(stored, Signature.from_json(signature))
    _, at, folder = target.rpartition("@")
    noted = Path(folder).expanduser() / "result.json"
    if at and noted.is_file():
        require_as_trained(read_result(noted).get("features"), now, signature, target)
    return now


def require_as_trained(trained: Json, now: StoredFeatures | None, signature: Json, target: str) -> None:
    """Raise InputError where features are not what `hotlap train` noted of them, where it did."""
    if trained is None:
        return
    if now is None:
        raise InputError(f"{target}: it was trained with stored features, and the workload's `features` names none now")
    try:
        then = parse(trained, Signature.from_json(signature))
    except ArtifactRefused as error:
        raise InputError(f"{target}: it was trained with other features: {error}") from None
    differences = ["the features or their order"] if then.inputs != now.inputs else changed(then.views, now.views)
    if differences:
        raise InputError(
            f"{target}: since it was trained, {'; '.join(differences)} changed; train again, or put back what was"
        )
