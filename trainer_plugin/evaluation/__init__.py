"""Evaluation of a model on a release's questions: accuracy by category, with baselines and confidence intervals."""
