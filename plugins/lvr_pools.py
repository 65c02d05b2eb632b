"""Airflow plugin that creates the pools named by the DAGs when Airflow starts.

Airflow never schedules a task whose pool does not exist, and the task's page does not say why. Existing pools are not
changed. The environment variables `LVR_DECODE_SLOTS` and `LVR_MODELS_SLOTS` set the size of new ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from operators.airflow.tasks import DECODE_POOL, MODELS_POOL

log = logging.getLogger(__name__)


def wanted_pools() -> dict[str, tuple[int, str]]:
    """Slots and description of each pool.

    The default is two decoding tasks, each of which uses half of the cores, and four tasks that wait for models.
    """
    return {
        DECODE_POOL: (int(os.environ.get("LVR_DECODE_SLOTS", "2")), "Tasks that decode video"),
        MODELS_POOL: (int(os.environ.get("LVR_MODELS_SLOTS", "4")), "Tasks that keep a model server busy"),
    }


def make_pools() -> list[str]:
    """Create the pools that are missing, and return their names.

    This accesses Airflow's metadata database, which tasks may not do.
    """
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy.exc import IntegrityError

    made = []
    for name, (slots, description) in wanted_pools().items():
        with contextlib.suppress(IntegrityError), create_session() as session:  # another component created it first
            if Pool.get_pool(name, session=session) is None:
                Pool.create_or_update_pool(name, slots, description, include_deferred=False, session=session)
                made.append(name)
    return made


@hookimpl
def on_starting(component: Any) -> None:
    """Listener hook that Airflow calls when a component starts.

    The scheduler, the triggerer and the dag-processor pass a `Job` and have access to the metadata database.
    """
    from airflow.jobs.job import Job

    if isinstance(component, Job) and (made := make_pools()):
        log.info("made the pools %s", ", ".join(made))


class PoolsPlugin(AirflowPlugin):
    """Registers this module's listener, `on_starting`."""

    name = "lvr_pools"
    listeners = [sys.modules[__name__]]  # noqa: RUF012 - Airflow's form
