"""Settings of an evaluation."""

from __future__ import annotations

from pydantic import Field, model_validator

from schemas.base import Model
from trainer_plugin.data.samples import PromptVariant
from trainer_plugin.evaluation.grading import OpenGrading


class EvaluationSettings(Model):
    """What is sampled, and how it is graded."""

    greedy: bool = True
    """Generate one greedy answer to each question."""
    samples: int = Field(default=0, ge=0)
    """Number of sampled answers to each question: their mean accuracy, and pass@n."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the sampled answers."""
    baselines: tuple[PromptVariant, ...] = (PromptVariant.TEXT, PromptVariant.SHUFFLED)
    """Prompts of the baselines, answered greedily: `text`, `shuffled`. Each takes another pass over the questions."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum number of tokens of an answer with its thought."""
    prompt_tokens: int = Field(default=32_768, ge=8)
    """Maximum number of tokens of a prompt. A longer video is shown in smaller frames, then with fewer frames."""
    questions: int | None = Field(default=None, ge=1)
    """Evaluate only so many questions, always the same random ones; None: all."""
    open_grading: OpenGrading = OpenGrading.LENIENT
    judge: str = "judge"
    """With `open_grading: judge`, the reward that grades open questions, right from 0.5 on: a short name or a path, as
    in `load_reward`."""
    judge_timeout_seconds: float = Field(default=120.0, gt=0)
    """Maximum seconds of the judge's concurrent calls for up to 64 answers."""
    requests: int = Field(default=4, ge=1)
    """Number of questions that a data-parallel rank passes to the engine at a time."""
    seed: int = 0

    @model_validator(mode="after")
    def _samples_something(self) -> EvaluationSettings:
        if not (self.greedy or self.samples):
            raise ValueError("nothing is sampled; set greedy to true, or samples to at least 1")
        if PromptVariant.VIDEO in self.baselines:
            raise ValueError("baselines may be text and shuffled; the prompt with its video is always evaluated")
        return self
