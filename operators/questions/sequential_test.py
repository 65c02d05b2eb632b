"""Wald's sequential probability ratio test: how many trials decide whether a model answers a question rightly.

A fixed number of trials is too many for a clear case and too few for an unclear one: a vote of 3 out of 3 loses 27 % of
the good questions with a judge that errs in one of ten answers. The sequential test requires more trials only while
neither hypothesis is likely enough. Source: A. Wald, Sequential Tests of Statistical Hypotheses, Annals of
Mathematical Statistics 16 (1945), section 3; its thresholds are log((1 - b) / a) and log(b / (1 - a)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class SequentialTest:
    """Decides between two probabilities of a right answer, `high` and `low`, from as few trials as possible.

    Raises:
        ValueError: `0 < low < high < 1` does not hold, an error rate is not between 0 and 0.5, or `max_trials` is 0.
    """

    high: float
    """Probability of a right answer if the question has the property that is tested."""
    low: float
    """Probability of a right answer if it has not."""
    miss_rate: float
    """Largest probability of deciding for `low` although `high` is true, if the trials did not end early."""
    false_alarm_rate: float
    """Largest probability of deciding for `high` although `low` is true, likewise."""
    max_trials: int
    """Number of trials after which the likelier hypothesis is taken, whatever the error rates. A test with fewer trials
    than a decision takes is possible, and errs more often."""

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 1:
            raise ValueError(f"0 < low ({self.low}) < high ({self.high}) < 1 must hold")
        for name, rate in (("miss_rate", self.miss_rate), ("false_alarm_rate", self.false_alarm_rate)):
            if not 0 < rate < 0.5:
                raise ValueError(f"{name} ({rate}) must be between 0 and 0.5")
        if self.max_trials < 1:
            raise ValueError(f"max_trials ({self.max_trials}) must be at least 1")

    def decide(self, right: int, wrong: int) -> bool | None:
        """True for `high`, False for `low`, None while more trials are needed."""
        evidence = self._log_likelihood_ratio(right, wrong)
        if evidence >= self._upper:
            return True
        if evidence <= self._lower:
            return False
        return evidence > 0 if right + wrong >= self.max_trials else None

    def more_trials(self, right: int, wrong: int) -> int:
        """The smallest number of further trials after which a decision is possible; 0 if there is one."""
        if self.decide(right, wrong) is not None:
            return 0
        evidence = self._log_likelihood_ratio(right, wrong)
        to_high = math.ceil((self._upper - evidence) / self._per_right)
        to_low = math.ceil((self._lower - evidence) / self._per_wrong)
        return min(max(1, min(to_high, to_low)), self.max_trials - right - wrong)

    def probability_of_high(self, p: float) -> float:
        """Probability that it decides for `high` when each answer is right with probability `p`, independently."""
        return self._sum_over_paths(p)[0]

    def mean_trials(self, p: float) -> float:
        """Mean number of trials when each answer is right with probability `p`, independently."""
        return self._sum_over_paths(p)[1]

    def _sum_over_paths(self, p: float) -> tuple[float, float]:
        high, trials = 0.0, 0.0
        reached = {(0, 0): 1.0}
        while reached:
            following: dict[tuple[int, int], float] = {}
            for (right, wrong), weight in reached.items():
                decision = self.decide(right, wrong)
                if decision is not None:
                    high += weight * decision
                    trials += weight * (right + wrong)
                    continue
                for step, share in (((right + 1, wrong), p), ((right, wrong + 1), 1 - p)):
                    following[step] = following.get(step, 0.0) + weight * share
            reached = following
        return high, trials

    def _log_likelihood_ratio(self, right: int, wrong: int) -> float:
        return right * self._per_right + wrong * self._per_wrong

    @cached_property
    def _per_right(self) -> float:
        return math.log(self.high / self.low)

    @cached_property
    def _per_wrong(self) -> float:
        return math.log((1 - self.high) / (1 - self.low))

    @cached_property
    def _upper(self) -> float:
        return math.log((1 - self.miss_rate) / self.false_alarm_rate)

    @cached_property
    def _lower(self) -> float:
        return math.log(self.miss_rate / (1 - self.false_alarm_rate))
