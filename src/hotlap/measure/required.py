"""What a command can't go on without: where that fails, the error says what failed and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hotlap.errors import CandidateFailed, InputError, OutOfMemory, WorkerDied, WorkerTimeout


@contextmanager
def required(what: str, *, longer: str = "a smaller model or batch takes less") -> Iterator[None]:
    """Turn an expected failure into an InputError. `what` failed; `longer`: what to do where it took too long."""
    try:
        yield
    except WorkerTimeout as error:
        raise InputError(f"{what}: {error}; {longer}") from error
    except OutOfMemory as error:
        raise InputError(f"{what}: {error}; a smaller --batch or evaluation batch needs less") from error
    except WorkerDied as error:
        raise InputError(f"{what}: its process was {_ended(error)}; run the model by itself to see why") from error
    except CandidateFailed as error:
        raise InputError(f"{what}: {error}") from error


def _ended(error: WorkerDied) -> str:
    """In the words of measure/worker.py, after "was"."""
    text = str(error)
    return text if text.startswith("killed") else f"lost: {text}"
