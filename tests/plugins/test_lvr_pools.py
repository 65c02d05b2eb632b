"""The pools that the DAGs name are created when Airflow starts, and keep the administrator's changes."""

import importlib.util
import sys

import pytest

from tests.support.airflow_home import ROOT, dag_bag, database


@pytest.fixture
def plugin():
    spec = importlib.util.spec_from_file_location("lvr_pools", ROOT / "plugins" / "lvr_pools.py")
    sys.modules["lvr_pools"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["lvr_pools"]


def test_every_pool_of_the_dags_is_made_once_and_then_left_alone(plugin, monkeypatch):
    database()
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(Pool).where(Pool.pool.like("lvr_%")).delete()
    monkeypatch.setenv("LVR_MODELS_SLOTS", "9")
    assert plugin.make_pools() == ["lvr_decode", "lvr_models"]
    monkeypatch.setenv("LVR_MODELS_SLOTS", "2")
    assert plugin.make_pools() == []
    with create_session() as session:
        slots = {pool.pool: pool.slots for pool in session.query(Pool)}
    assert slots["lvr_models"] == 9
    assert {task.pool for dag in dag_bag().dags.values() for task in dag.tasks} <= set(slots)


def test_the_plugin_acts_on_jobs_only(plugin, monkeypatch):
    database()
    from airflow.jobs.job import Job

    calls = []
    monkeypatch.setattr(plugin, "make_pools", lambda: calls.append(1) or [])
    plugin.on_starting(component=object())
    assert calls == []
    plugin.on_starting(component=Job())
    assert calls == [1]
