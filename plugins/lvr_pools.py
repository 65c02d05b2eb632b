"""Airflow plugin: the pools that the DAGs name are made when Airflow starts.

A task of a pool that does not exist is never scheduled, and nothing on its page says why. Pools that exist are left as
they are; `LVR_DECODE_SLOTS` and `LVR_MODELS_SLOTS` size new ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from operators.airflow_lanes import DECODE_POOL, MODELS_POOL

log = logging.getLogger(__name__)


def wanted_pools() -> dict[str, tuple[int, str]]:
    """Slots and description by pool: by default two tasks that decode, half of the cores each, and four that wait."""
    return {
        DECODE_POOL: (int(os.environ.get("LVR_DECODE_SLOTS", "2")), "Tasks that decode video"),
        MODELS_POOL: (int(os.environ.get("LVR_MODELS_SLOTS", "4")), "Tasks that keep a model server busy"),
    }


def make_pools() -> list[str]:
    """Make the pools that are missing; returns their names. Needs the database: not for tasks."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy.exc import IntegrityError

    made = []
    for name, (slots, description) in wanted_pools().items():
        with contextlib.suppress(IntegrityError), create_session() as session:  # another component was first
            if Pool.get_pool(name, session=session) is None:
                Pool.create_or_update_pool(name, slots, description, include_deferred=False, session=session)
                made.append(name)
    return made


@hookimpl
def on_starting(component: Any) -> None:
    """Called as a component starts. Scheduler, triggerer and dag-processor come with a job, and have the database."""
    from airflow.jobs.job import Job

    if isinstance(component, Job) and (made := make_pools()):
        log.info("made the pools %s", ", ".join(made))


class PoolsPlugin(AirflowPlugin):
    name = "lvr_pools"
    listeners = [sys.modules[__name__]]  # noqa: RUF012 - Airflow's own form
