"""Trains long-video reasoning models on the releases that the pipeline publishes.

The trainer and the pipeline share only `schemas`, above all the format of samples (`schemas.sample`). Neither package
imports the other, so a training job installs without Airflow. Start with `docs/trainer.md`.

    sft.py                                            a training run: `Training` and its command
    recipe.py, recipes/                               configuration of a run, and the published stages' values
    step.py                                           one optimizer step
    trainer.py                                        the same inside `transformers.Trainer`
    model.py                                          the model, run on one rank's part of a row
    families/                                         differences between model families
    plan.py                                           distribution of a row's tokens and frames over ranks
    parallel.py                                       process groups
    attention.py, kernels.py, comm.py, head.py        attention, output head, and communication between ranks
    vision_attention.py                               attention of the vision tower
    data.py                                           reads a release
    dataset.py, batches.py, loader.py, rows.py        samples, packing, decoding ahead, and each rank's part of a row
    texts.py                                          rows of plain text
    examples.py, chat.py, frames.py, patches.py       types of a sample, its token ids, its frames, their patches
    decoders.py                                       worker processes that decode frames
    encode.py, features.py                            features of videos that are encoded once
    weights.py, checkpoint.py, export.py, files.py    loading and saving
    command.py                                        signals, errors and exit status of the commands
    metrics.py, memory.py                             throughput, FLOPs and memory
    offload.py, tiling.py                             memory savings: offloading and tiled MLPs
    versions.py                                       supported versions of PyTorch and transformers
    bytes_tokenizer.py                                a tokenizer for models with random weights
"""
