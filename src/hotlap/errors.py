"""Every error that hotlap raises on purpose.

    HotlapError
    ├── InputError              what the user gave is wrong; nothing was done        (exit 2)
    │   ├── TargetError         the target can't be found or loaded
    │   ├── WorkloadError       a field of the workload is missing or misbehaves
    │   ├── OutputError         the output folder can't be used
    │   └── MissingExtra        a feature needs packages that are not installed
    ├── Refusal                 the work ran, and the answer is no                  (exit 3)
    │   ├── ArtifactRefused     an artifact is damaged, changed, expired or not trusted
    │   ├── TrainingStopped     training can't go on: a number is not finite, another process is gone
    │   │   └── LoaderDied      a process that loads data ended by itself
    │   └── StoreDown           an online store does not answer
    └── CandidateFailed         an expected failure of one candidate: a row, never the end of a search
        ├── Unsupported         this candidate can't be made or run here
        ├── WorkerDied          its process ended by itself (crash, exit, signal)
        ├── WorkerTimeout       its process did not answer in time
        ├── OutOfMemory         its process passed its memory limit
        └── WrongOutputs        its outputs are not the model's (NaN, shape, type, batch)

A message says what was wrong, where (file and field), and what to do. Only `cli/` knows exit codes. Anything
else that is raised is a bug of hotlap's own.
"""

from __future__ import annotations


class HotlapError(Exception):
    """The base of every error raised on purpose."""


class InputError(HotlapError):
    """What the user gave is wrong; nothing was done."""


class TargetError(InputError):
    """The target can't be found or loaded."""


class WorkloadError(InputError):
    """A field of the workload is missing or misbehaves."""


class OutputError(InputError):
    """The output folder can't be used."""


class MissingExtra(InputError):
    """A feature needs packages that are not installed."""


class Refusal(HotlapError):
    """The work ran, and the answer is no."""


class ArtifactRefused(Refusal):
    """An artifact is damaged, changed, expired or not trusted."""


class TrainingStopped(Refusal):
    """Training can't go on from here; the last good state is kept."""


class LoaderDied(Refusal):
    """A process that loads data ended by itself, which says nothing of what the training learns."""


class StoreDown(Refusal):
    """An online store does not answer."""


class CandidateFailed(HotlapError):
    """An expected failure of one candidate: a row, never the end of a search."""


class Unsupported(CandidateFailed):
    """This candidate can't be made or run here."""


class WorkerDied(CandidateFailed):
    """A worker process ended by itself."""


class WorkerTimeout(CandidateFailed):
    """A worker process did not answer in time."""


class OutOfMemory(CandidateFailed):
    """A worker process passed its memory limit."""


class WrongOutputs(CandidateFailed):
    """A candidate's outputs are not the model's."""
