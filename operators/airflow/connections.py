"""Airflow Connections of model servers, converted to the environment variables that the pipeline reads.

The Connections are `lvr_captioner`, `lvr_reasoner`, `lvr_judge`, `lvr_target` and `lvr_viewer` for the model roles, and
`lvr_speech` for transcription. Each has a host (a name or a whole URL), a port, a schema, the API key as its password,
and the extra `{"model": "...", "vision": true}`. A role without a Connection keeps the settings of the worker's own
environment. API keys are passed in the child's environment
only, never on a command line or in a log.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from operators.settings import ConfigError
from schemas.config import Role
from schemas.uri import shown_uri

if TYPE_CHECKING:
    from operators.models.endpoints import Endpoint


SPEECH: Literal["speech"] = "speech"
"""Name of the transcription endpoint, which is no role."""


def command_environment() -> dict[str, str]:
    """Environment variables for a pipeline command.

    It is the worker's own environment without Airflow's settings and Connections (`AIRFLOW__*`, `AIRFLOW_CONN_*`), plus
    the variables of the model roles.

    Raises:
        ConfigError: a Connection does not describe an OpenAI-compatible endpoint.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW__", "AIRFLOW_CONN_"))}
    return kept | model_environment()


def model_environment() -> dict[str, str]:
    """Environment variables of every role that has a Connection, and of the transcription endpoint if it has one.

    Raises:
        ConfigError: a Connection does not describe an OpenAI-compatible endpoint.
    """
    from operators.models.endpoints import environment  # slow to import, so not at DAG parse

    found: dict[str, str] = {}
    for role in (*Role, SPEECH):
        try:
            connection = Connection.get(f"lvr_{role}")
        except AirflowNotFoundException:
            continue
        found |= environment(role, endpoint_of(role, connection))
    return found


def endpoint_of(role: Role | Literal["speech"], connection: Any) -> Endpoint:
    """The endpoint that a Connection describes.

    Raises:
        ConfigError: the host is missing or not a valid address, or the extra has a value of the wrong type.
    """
    from operators.models.endpoints import VISION_ROLES, Endpoint

    conn_id = f"lvr_{role}"
    extra: Mapping[str, Any] = connection.extra_dejson
    model, vision = extra.get("model", ""), extra.get("vision", role in VISION_ROLES)
    if not connection.host:
        raise ConfigError(
            f"connection {conn_id}: has no host; give the server's name, or a URL such as http://host:8000/v1"
        )
    if not isinstance(model, str) or not isinstance(vision, bool):
        raise ConfigError(
            f'connection {conn_id}: its extra must look like {{"model": "name", "vision": true}}, '
            f"got model {model!r} and vision {vision!r}"
        )
    try:
        base_url = _base_url(connection)
    except ValueError:  # its text may quote a password, and tracebacks are logged: hence `from None`
        host = connection.host if "://" in connection.host else f"http://{connection.host}"
        raise ConfigError(
            f"connection {conn_id}: its host {shown_uri(host)!r} is no address; give the server's name, or "
            f"a URL such as http://host:8000/v1, and a key as password"
        ) from None
    return Endpoint(base_url=base_url, model=model, api_key=connection.password or "", vision=vision)


def _base_url(connection: Any) -> str:
    """Base URL of a Connection, whose `host` may be a name, a name with a path, or a URL.

    An address without a path gets `/v1`, the usual path of OpenAI-compatible servers.

    Raises:
        ValueError: the host is not a valid address.
    """
    host: str = connection.host.strip().rstrip("/")
    if "://" not in host:
        host = f"{connection.schema or 'http'}://{host}"
    parts = urlsplit(host)
    if connection.port and parts.port is None:
        parts = parts._replace(netloc=f"{parts.netloc}:{connection.port}")
    return (parts if parts.path else parts._replace(path="/v1")).geturl()
