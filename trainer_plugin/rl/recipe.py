"""`GrpoRecipe`: the configuration of a reinforcement-learning run. `recipes/grpo/` has some as YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from schemas.base import Model
from schemas.tables import Split
from trainer_plugin.recipe import RunSettings, VideoData, load_recipe_of
from trainer_plugin.rl.advantages import Estimator
from trainer_plugin.rl.alarms import AlarmSettings
from trainer_plugin.rl.engines import PREFILL_TOKENS, Engine
from trainer_plugin.rl.objective import Objective
from trainer_plugin.rl.prompts import PromptSettings
from trainer_plugin.rl.rollout import SamplingSettings
from trainer_plugin.rl.update import CorrectionSettings, UpdateSettings
from trainer_plugin.rl.video_cache import CacheSettings


class PromptVideos(VideoData):
    """Questions about videos, from a published release, by default those of its split for reinforcement learning."""

    split: Split = Split.RL


class RolloutSettings(Model):
    """How many prompts and responses a step has, and how they are sampled."""

    prompts: int = Field(default=8, ge=1)
    """Number of groups in a step, over all ranks. Groups without signal do not count where they are dropped."""
    responses: int = Field(default=8, ge=2)
    """Number of responses to each prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """As in `SamplingSettings`."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum number of tokens of a response. The prompt may have `row_tokens - max_tokens`."""
    engine: Engine = Engine.AUTO
    """What samples the responses."""
    batch_requests: int = Field(default=1, ge=1)
    """Number of prompts that a data-parallel rank holds in memory at a time while it samples."""
    prefill_tokens: int = Field(default=PREFILL_TOKENS, ge=1)
    """Maximum number of tokens of a prompt that `shared_prefix` and `vllm` run in one pass."""
    drop_without_signal: bool = True
    """Drop groups whose responses all have the same reward, and sample other prompts instead."""
    max_rounds: int = Field(default=4, ge=1)
    """Maximum number of rounds of sampling in a step. If groups are then still missing, the step has fewer."""
    mask_truncated: bool = True
    """Responses that end at the length limit are in no loss. Their rewards still count in their group."""

    @property
    def sampling(self) -> SamplingSettings:
        """The settings of the engine."""
        return SamplingSettings(temperature=self.temperature, max_tokens=self.max_tokens)


class RewardSettings(Model):
    """One reward."""

    reward: str
    """A short name or a Python path, as in `trainer_plugin.rl.rewards.base.load_reward`."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """With 0 the reward is only measured."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the function, or of the class."""


class GrpoRecipe(RunSettings):
    """Configuration of one reinforcement-learning run."""

    folder = "grpo"
    training_settings = (
        "row_tokens",
        "epochs",
        "steps",
        "precision",
        "optimizer",
        "rollout",
        "rewards",
        "advantages",
        "objective",
        "correction",
        "update",
    )

    videos: PromptVideos
    prompts: PromptSettings = PromptSettings()
    rollout: RolloutSettings = RolloutSettings()
    rewards: tuple[RewardSettings, ...] = (
        RewardSettings(reward="accuracy", weight=0.9),
        RewardSettings(reward="format", weight=0.1),
    )
    """LongVILA-R1's weights. Rewards that do not apply to a response are not in its sum."""
    reward_timeout_seconds: float = Field(default=30.0, gt=0)
    """Maximum seconds of one call of a reward."""
    advantages: Estimator = Estimator.GRPO
    objective: Objective = Objective()
    correction: CorrectionSettings | None = CorrectionSettings()
    """None: no correction. Then, with one update per rollout, there is no pass for the old log-probabilities."""
    update: UpdateSettings = UpdateSettings()
    alarms: AlarmSettings = AlarmSettings()
    cache: CacheSettings = CacheSettings()

    @property
    def prompt_tokens(self) -> int:
        """Maximum number of tokens of a prompt."""
        return self.row_tokens - self.rollout.max_tokens

    @property
    def evaluation_defaults(self) -> dict[str, int]:
        return {"prompt_tokens": self.prompt_tokens, "max_tokens": self.rollout.max_tokens}

    @property
    def needs_reference(self) -> bool:
        """Whether the KL term needs a reference model. That of adapters is the policy without them."""
        return self.objective.beta != 0 and self.trained.lora is None

    @model_validator(mode="after")
    def _check_consistency(self) -> GrpoRecipe:
        if self.prompt_tokens < 1:
            raise ValueError(
                f"row_tokens {self.row_tokens} has no room for a prompt and rollout.max_tokens "
                f"{self.rollout.max_tokens}; raise row_tokens or lower rollout.max_tokens"
            )
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("rewards are empty or all have weight 0; give at least one a weight")
        names = [reward.reward for reward in self.rewards]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(
                f"rewards name {repeated} twice, and their metrics have only this name; keep one of them, or give the "
                f"other a function of its own name in a Python file"
            )
        updates = self.update.minibatches * self.update.passes
        if self.objective.policy == "reinforce" and updates > 1:
            raise ValueError(
                f"objective.policy reinforce has no ratio, so that only the first of {updates} updates per rollout "
                f"would be on policy; set update.minibatches and update.passes to 1, or another policy"
            )
        if self.update.minibatches > self.rollout.prompts:
            raise ValueError(
                f"update.minibatches {self.update.minibatches} is above rollout.prompts {self.rollout.prompts}"
            )
        return self


def load_grpo_recipe(name: str, settings: Sequence[str] = ()) -> GrpoRecipe:
    """Load a reinforcement-learning recipe from a file, or one of the package's own by its name.

    Args:
        name: path of a YAML file, or a name such as `demo`.
        settings: overrides of the form `section.field=value`, with values in YAML. They take precedence over the file.

    Raises:
        ConfigError: there is no such recipe, a field is unknown, a value is invalid, or values contradict each other.
    """
    return load_recipe_of(GrpoRecipe, name, settings)
