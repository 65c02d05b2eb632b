"""Trains long-video reasoning models on the releases that the pipeline publishes.

It shares one thing with the pipeline: the sample contract in `schemas.sample`. It imports nothing from `operators`, and
nothing there imports it, so that a training job installs it without Airflow. `docs/trainer.md` is the way in.

    sft.py         a run: `Training`, and the command        recipe.py, recipes/   what it may be told
    step.py        one optimizer step                         trainer.py            the same inside transformers.Trainer
    model.py       a model's share of a row                   families/             what differs between models
    plan.py        who does what for a row                    parallel.py           process groups
    attention.py, kernels.py, comm.py, head.py                the mathematics, and what crosses ranks
    data.py        reads a release                            dataset.py, batches.py, texts.py, loader.py, rows.py
    weights.py, checkpoint.py, export.py                      from and to the disk
    metrics.py, memory.py, offload.py                         what it costs
"""
