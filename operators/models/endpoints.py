"""Endpoints of models: one OpenAI-compatible endpoint per role, configured by environment variables.

`LVR_<ROLE>_URL`, `_MODEL`, `_API_KEY` and `_VISION` (0 or 1) describe the endpoint of a role (CAPTIONER, REASONER,
JUDGE, TARGET, VIEWER). A role without a URL of its own uses `LVR_MODEL_URL`, and takes `LVR_MODEL_NAME`,
`LVR_MODEL_API_KEY` and `LVR_MODEL_VISION` for each variable that it does not set itself. The viewer does so only where
`LVR_VIEWER_VISION` or `LVR_MODEL_VISION` is 1, for a model without vision cannot be one. Airflow connections become the
same variables (`environment`). Keys and passwords never appear in a repr or in a message. `operators.models.session`
decides which model a build uses.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from schemas.config import Role
from schemas.errors import BadInput, Outage
from schemas.uri import shown_uri, without_secrets

VISION_ROLES = frozenset({Role.CAPTIONER, Role.TARGET, Role.VIEWER})
"""Roles whose endpoints are assumed to accept frames unless `_VISION` is set."""


_MIN_SECRET_CHARACTERS = 8
"""Minimum number of characters of a key or password that is masked."""
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+[^\s'\"\\,;)}\]]+", re.IGNORECASE)


class EndpointError(BadInput):
    """Raised when an endpoint's environment variables are invalid or incomplete."""


class ModelUnavailable(Outage):
    """Raised when a model server cannot be used now.

    It is not reachable, rejects the key or the model name, is overloaded, or does not speak the protocol. This is an
    outage and not a refusal: it says nothing about the request, which may be sent again later.
    """


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server and a model on it."""

    base_url: str
    """URL up to and including `/v1`."""
    model: str
    api_key: str = field(default="", repr=False)
    vision: bool = False

    def __repr__(self) -> str:
        return f"Endpoint({self.shown_url!r}, {self.model!r}, vision={self.vision})"

    @property
    def shown_url(self) -> str:
        """The URL without user, password and query, for messages."""
        return shown_uri(self.base_url)

    def mask_secrets(self, answer: str) -> str:
        """An answer in which only the endpoint's key and password are masked, as a server may repeat them."""
        for secret in self._secrets:
            answer = answer.replace(secret, "***")
        return answer

    def mask_message(self, text: str) -> str:
        """A server's or library's message with everything masked that may be a credential, also in headers and URLs."""
        return _AUTHORIZATION.sub(r"\1 ***", without_secrets(self.mask_secrets(text), [self.base_url]))

    @functools.cached_property
    def _secrets(self) -> tuple[str, ...]:
        """Every spelling of the key and the password that a server may repeat, longest first.

        Values of fewer than 8 characters, such as `none`, are taken for ordinary words and not for secrets.
        """
        user, _, password = urlsplit(self.base_url).netloc.rpartition("@")[0].partition(":")
        basic = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        spelled = {basic if password else ""}
        for secret in (self.api_key, password, unquote(password)):
            spelled |= {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], html.escape(secret)}
        return tuple(sorted((each for each in spelled if len(each) >= _MIN_SECRET_CHARACTERS), key=len, reverse=True))


def endpoint_for(role: Role, environ: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The endpoint that the environment names for a role, or None.

    A role's own URL is used with the role's own key only, so that a key is never sent to a server other than the one
    that it was set for.

    Raises:
        EndpointError: a URL or a flag is invalid.
    """
    prefix = f"LVR_{role.name}_"
    own = {name: environ.get(prefix + name, "") for name in ("URL", "MODEL", "API_KEY", "VISION")}
    general = {name: environ.get(f"LVR_MODEL_{name.replace('MODEL', 'NAME')}", "") for name in own}
    values = own if own["URL"] else {name: own[name] or general[name] for name in own}
    if not values["URL"] or (role is Role.VIEWER and not own["URL"] and values["VISION"] != "1"):
        return None
    endpoint = Endpoint(
        base_url=values["URL"].rstrip("/"),
        model=values["MODEL"],
        api_key=values["API_KEY"],
        vision=_flag(f"{prefix}VISION", values["VISION"], default=role in VISION_ROLES),
    )
    if not is_web_address(endpoint.base_url):
        raise EndpointError(
            f"{prefix}URL or LVR_MODEL_URL is {endpoint.shown_url!r}; an address such as http://host:8000/v1 is needed"
        )
    return endpoint


def is_web_address(url: str) -> bool:
    """Whether a URL is one of http or https with a host and a valid port."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # an invalid bracket or port
        return False


def environment(role: Role | Literal["speech"], endpoint: Endpoint) -> dict[str, str]:
    """The environment variables from which `endpoint_for`, or `speech_endpoint`, returns this endpoint.

    Empty values are included: they override all variables of the role in the environment that is updated with them, so
    that none of its values is combined with this URL.
    """
    values = {
        "URL": endpoint.base_url,
        "MODEL": endpoint.model,
        "API_KEY": endpoint.api_key,
        **({"VISION": str(int(endpoint.vision))} if isinstance(role, Role) else {}),
    }
    return {f"LVR_{role.upper()}_{name}": value for name, value in values.items()}


def check(endpoint: Endpoint, model: str = "", role: Role | str | None = None, timeout_seconds: float = 10.0) -> None:
    """Check that the server answers and lists a model.

    Args:
        endpoint: the server.
        model: the model that must be listed; by default the endpoint's own.
        role: the role that error messages name.
        timeout_seconds: time limit of a request; one retry is made.

    Raises:
        ModelUnavailable: the server is not reachable, refuses the key, or does not list the model.
    """
    import openai  # takes most of a second, so it is imported only where a request is sent

    wanted = replace(endpoint, model=model or endpoint.model)
    with openai.OpenAI(
        base_url=endpoint.base_url, api_key=endpoint.api_key or "none", timeout=timeout_seconds, max_retries=1
    ) as client:
        try:
            listed = sorted(found.id for found in client.models.list())
        except (openai.OpenAIError, ValueError, AttributeError) as error:  # the last two: a web page, not the protocol
            raise unavailable(error, wanted, role) from error
    if wanted.model not in listed:
        raise ModelUnavailable(
            f"{wanted.shown_url} has no model {wanted.model!r}; it lists "
            f"{endpoint.mask_message(', '.join(listed)) or 'none'}"
        )


def unavailable(error: Exception, endpoint: Endpoint, role: Role | str | None) -> ModelUnavailable:
    """Translate an error of the openai client into a message with role, address, model, cause and fix.

    Args:
        role: the role, or another word of its environment variables, such as `speech`.
    """
    import openai

    where = f"{role or 'model server'} {endpoint.shown_url} (model {endpoint.model!r})"
    variables = f"LVR_{role.upper() if role else '<ROLE>'}"
    match error:
        case openai.APITimeoutError():
            found, fix = "gave no answer in time", "raise timeout_seconds or lower concurrency of this role's model"
        case openai.APIConnectionError():
            found = f"cannot be reached: {error.__cause__ or error}"
            fix = f"check that the server is running and that {variables}_URL is right"
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            found, fix = f"refused the key (HTTP {error.status_code})", f"set {variables}_API_KEY"
        case openai.NotFoundError():
            found = f"does not know the model or the address (HTTP 404: {error.message})"
            fix = "the URL must end in /v1, and the model be one that GET /models lists"
        case openai.RateLimitError():
            found, fix = f"is overloaded (HTTP 429: {error.message})", "lower concurrency, or try later"
        case openai.APIStatusError() if error.status_code >= 500:
            found, fix = f"kept failing (HTTP {error.status_code}: {error.message})", "see the server's own log"
        case openai.APIStatusError():
            found = f"rejects the request (HTTP {error.status_code}: {error.message})"
            fix = "use a server that supports response_format json_schema, seed and, where used, images"
        case _:
            found = f"answered with something that is not the OpenAI protocol ({type(error).__name__}: {error})"
            fix = "point the URL at the model server, not at a web page or a proxy"
    return ModelUnavailable(f"{where} {endpoint.mask_message(found)}; {fix}")


def _flag(name: str, value: str, default: bool) -> bool:
    if value not in {"", "0", "1"}:
        raise EndpointError(f"{name} is {value!r}; it must be 0 or 1")
    return default if value == "" else value == "1"
