"""Alarms that end a run whose further training would be useless or harmful.

Each alarm needs its sign in several steps on end, because a single step has few prompts.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from schemas.base import Fraction, Model
from trainer_plugin.rl.metrics import GrpoMetrics


class AlarmSettings(Model):
    """When a run ends. None switches an alarm off."""

    mismatch_k3: float | None = Field(default=0.01, gt=0)
    """Highest mean k3 between the engine's and the trainer's log-probabilities, in nats. Where trainer and engine see
    different frames it is above 1; rounding in bfloat16 gives about 0.001 (prime-rl #2786: 5.24 before the fix, 0.001
    after)."""
    mismatch_steps: int = Field(default=3, ge=1)
    """Steps on end above `mismatch_k3`."""
    entropy: float | None = Field(default=0.01, gt=0)
    """Lowest entropy per sampled token, in nats, whatever it was at first. At 0.01 a response of 100 tokens has 1 nat
    in all, which is that of three equally likely responses: larger groups repeat them, and nothing else is tried. None
    switches the whole alarm of the entropy off."""
    entropy_share: Fraction = 0.1
    """Lowest entropy as a share of its mean over the first `entropy_steps` steps. Tokens that only follow the format
    have almost none, so that responses may be alike long before the mean falls to `entropy`. 0: only `entropy`."""
    entropy_steps: int = Field(default=5, ge=1)
    """Steps on end below the higher of both."""
    solved: Fraction = 0.8
    """Share of groups that are all right from which low entropy is no alarm: the policy is then certain and right."""
    no_signal_steps: int | None = Field(default=5, ge=1)
    """Steps on end in which no group counts in the loss."""


class TrainingAlarm(ArithmeticError):
    """A sign, over several steps, that a run should not continue. The message gives the values and what to do."""


class Alarms:
    """The alarms of a run. Each rank has equal ones, and passes them equal metrics."""

    def __init__(self, settings: AlarmSettings) -> None:
        self.settings = settings
        self._signs: dict[str, list[str]] = {"mismatch": [], "entropy": [], "no signal": []}
        """The values of the last steps on end that had the sign of each alarm, described with their steps."""
        self._first_entropies: list[float] = []
        """Entropies of the run's first `entropy_steps` steps."""

    def check(self, metrics: GrpoMetrics) -> None:
        """Check a step. Call it once for each, after its metrics are recorded.

        A step without a value, such as the mismatch without an update, changes nothing.

        Raises:
            TrainingAlarm: an alarm's sign has lasted for its number of steps.
        """
        settings, groups = self.settings, metrics.groups
        k3, entropy = metrics.mismatch.get("k3"), metrics.entropy
        if settings.mismatch_k3 is not None and k3 is not None:
            self._update(
                "mismatch",
                f"k3 {k3:.4g}" if k3 > settings.mismatch_k3 else None,
                metrics.step,
                settings.mismatch_steps,
                f"the engine's log-probabilities differ from the trainer's: their mean k3 is above "
                f"alarms.mismatch_k3 {settings.mismatch_k3:g}",
                "check that both get the same frames, prompts, weights and precision, or raise alarms.mismatch_k3",
            )
        share = groups.all_right / groups.total if groups.total else 0.0
        if settings.entropy is not None and entropy is not None:
            if len(self._first_entropies) < settings.entropy_steps:
                self._first_entropies.append(entropy)
            first = statistics.fmean(self._first_entropies)
            limit = max(settings.entropy, settings.entropy_share * first)
            low = entropy < limit and share < settings.solved
            self._update(
                "entropy",
                f"{entropy:.4g} nats with {share:.0%} of the groups all right" if low else None,
                metrics.step,
                settings.entropy_steps,
                f"the entropy has collapsed: it is below {limit:.4g} nats per token, the higher of alarms.entropy "
                f"{settings.entropy:g} and of alarms.entropy_share {settings.entropy_share:g} of the {first:.4g} nats "
                f"of the first steps, and fewer than {settings.solved:.0%} of the groups are all right",
                "resume from an earlier checkpoint with a lower optimizer.learning_rate or a higher "
                "objective.clip_high, or lower alarms.entropy and alarms.entropy_share",
            )
        if settings.no_signal_steps is not None:
            found = (
                f"{groups.total} groups: {groups.all_right} all right, {groups.all_wrong} all wrong, "
                f"{metrics.responses.truncated:.0%} of the responses truncated, {metrics.responses.failed:.0%} failed"
            )
            self._update(
                "no signal",
                found if groups.kept == 0 else None,
                metrics.step,
                settings.no_signal_steps,
                "no group counts in the loss",
                "where groups are all right, the run has solved its prompts: end it, or lower prompts.max_pass_rate; "
                "where they are all wrong, raise prompts.min_pass_rate or train longer with supervision first; where "
                "responses are truncated, raise rollout.max_tokens; or raise alarms.no_signal_steps",
            )

    def _update(self, name: str, sign: str | None, step: int, steps: int, problem: str, fix: str) -> None:
        """Add a step's sign, or clear them if it has none, and raise after `steps` of them."""
        if sign is None:
            self._signs[name].clear()
            return
        signs = self._signs[name]
        signs.append(f"step {step}: {sign}")
        if len(signs) >= steps:
            shown = "; ".join(signs[-steps:])
            raise TrainingAlarm(f"alarm {name}: {problem}, for {steps} steps ({shown}); {fix}; null switches it off")

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values, for a checkpoint."""
        return {**{name: list(signs) for name, signs in self._signs.items()}, "first entropies": self._first_entropies}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self._signs = {name: list(state.get(name, ())) for name in self._signs}
        self._first_entropies = list(state.get("first entropies", ()))
