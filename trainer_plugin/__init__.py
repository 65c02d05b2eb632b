"""Trains long-video reasoning models on the releases that the pipeline publishes.

The trainer and the pipeline share only `schemas`, above all the format of samples (`schemas.sample`). Neither package
imports the other, so a training job installs without Airflow. Start with `docs/trainer.md`.

    sft.py              a supervised run: `Training` and its command
    grpo.py             a reinforcement-learning run: `GrpoTraining` and its command
    hf_trainer.py       supervised training inside `transformers.Trainer`
    encode_features.py  the command that encodes a release's videos once
    evaluate.py         the command that evaluates a model on a release
    ask.py              the command that answers a question about a video
    recipe.py           configuration of a run; recipes/ holds the published stages' values
    model.py            the model, run on one rank's part of a row
    types.py            samples, groups, rows, and what they consist of
    data/               from a release or texts to packed rows with decoded frames
    distributed/        process groups, the plan of a row, and collectives
    families/           differences between model families
    ops/                attention, output head, image preprocessing, and memory savings
    training/           one optimizer step, its feed, checkpoints, export, and metrics
    rl/                 reinforcement learning: advantages, losses, rollout correction, rewards
    evaluation/         answers, grading, and the table of accuracies
    command.py          signals, errors and exit status of the commands
    atomic_files.py     files and folders that are complete or absent
    versions.py         supported versions of PyTorch and transformers
"""
