"""Trains long-video reasoning models on the releases that the pipeline publishes.

It shares one thing with the pipeline: the sample contract in `schemas.sample`. It imports nothing from `operators`, and
nothing there imports it, so that a training job installs it without Airflow. `docs/trainer.md` is the way in.

    sft.py         a run: `Training`, and the command        recipe.py, recipes/   what it may be told
    step.py        one optimizer step                         trainer.py            the same inside transformers.Trainer
    model.py       a model's share of a row                   families/             what differs between models
    plan.py        who does what for a row                    parallel.py           process groups
    attention.py, kernels.py, comm.py, head.py                the mathematics, and what crosses ranks
    vision_attention.py                                       the same for the tower's
    data.py        reads a release                            dataset.py, batches.py, texts.py, loader.py, rows.py
    examples.py, chat.py, frames.py, patches.py               what a sample is, its texts and its frames
    decoders.py                                               processes that decode
    encode.py, features.py                                    videos that are encoded once
    weights.py, checkpoint.py, export.py, files.py            from and to the disk
    command.py                                                how a command ends: signals, errors, exit status
    metrics.py, memory.py                                     what it costs
    offload.py, tiling.py                                     what makes it fit
    versions.py, bytes_tokenizer.py                           what it runs with; a tokenizer for random weights
"""
