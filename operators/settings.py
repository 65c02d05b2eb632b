"""Loads a `BuildConfig` from a YAML file, from `key=value` settings or from JSON, with errors that users can act on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.config import BuildConfig
from schemas.settings import ConfigError, read_fields, set_field, validate
from schemas.uri import holds_secret, shown_uri

__all__ = ["ConfigError", "assert_no_secret", "load_config", "validate_config"]


def load_config(
    file: Path | None = None, settings: Sequence[str] = (), *, base: Mapping[str, Any] | None = None, **fields: Any
) -> BuildConfig:
    """Load the configuration of a build.

    Args:
        file: a YAML file of `BuildConfig` fields.
        settings: `section.field=value` settings, with values in YAML. They override the file.
        base: values to start from if there is no file.
        fields: top-level fields that override all others. None means not given.

    Raises:
        ConfigError: the file cannot be read, a field is unknown, a value is invalid, values contradict each other, or
            an address contains a secret.
    """
    values: dict[str, Any] = copy.deepcopy(dict(base or {})) if file is None else read_fields(file)
    for setting in settings:
        set_field(values, setting)
    values |= {name: value for name, value in fields.items() if value is not None}
    return validate_config(values)


def validate_config(values: Mapping[str, Any]) -> BuildConfig:
    """Validate the values as the configuration of a new build.

    Raises:
        ConfigError: a field is unknown, a value is invalid, values contradict each other, or an address contains a
            secret.
    """
    config = validate(values, BuildConfig)
    assert_no_secret(config)
    return config


def assert_no_secret(config: BuildConfig) -> None:
    """Check that no address of the configuration contains a secret, because a new run would store it.

    Runs of earlier versions may contain secrets, and can still be opened.

    Raises:
        ConfigError: an address has a user, a password, or a query or fragment that may be secret.
    """
    named = [(name, getattr(config, name)) for name in ("source", "media_root", "out")]
    named += [("allowed_roots", root) for root in config.allowed_roots]
    named += [("assemble.decontamination", address) for address in config.assemble.decontamination]
    for name, address in named:
        if holds_secret(address):
            raise ConfigError(
                f"{name}: {shown_uri(address)} was given with a user, a password or a query, which would be stored "
                f"with every run; give it without, and the credentials as environment variables (AWS_ACCESS_KEY_ID "
                f"and the like), in a ~/.netrc for http, or in the rows of a local manifest"
            )
