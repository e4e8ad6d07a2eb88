"""The accuracy gate: measurements and a tolerance in, a verdict out.

Pure and NumPy only, so that anyone can recompute a stored verdict from its evidence. How sure a verdict is, and what
that rests on, is said where each limit is computed: paired.py (0/1 scores), bounded.py (other scores), resampled.py (a
metric of a whole set), slices.py.
"""

from hotlap.gate.allowance import confirmation_confidences, tolerance
from hotlap.gate.drop import drop_interval, is_binary, score_bounds
from hotlap.gate.foresight import LIKELY, WORTH_A_TRY, chance_to_pass, order_of_tries
from hotlap.gate.resampled import metric_drop_interval
from hotlap.gate.verdicts import judge_agreement, judge_drop, judge_equivalence

__all__ = [
    "LIKELY",
    "WORTH_A_TRY",
    "chance_to_pass",
    "confirmation_confidences",
    "drop_interval",
    "is_binary",
    "judge_agreement",
    "judge_drop",
    "judge_equivalence",
    "metric_drop_interval",
    "order_of_tries",
    "score_bounds",
    "tolerance",
]
