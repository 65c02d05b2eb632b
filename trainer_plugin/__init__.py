"""Trains long-video reasoning models on the releases that the pipeline publishes.

It shares one thing with the pipeline: the sample contract in `schemas.sample`. It imports nothing from `operators`, and
nothing there imports it, so that a training job installs it without Airflow.

    data.py     reads a release: samples from its Parquet tables, samples with their videos from its tars
"""
