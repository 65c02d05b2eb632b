"""Rejects of a plan: entries of the user's list that cannot be used, whatever bytes they consist of."""

from __future__ import annotations

import json
from typing import Any

from schemas.tables import Reject
from schemas.uri import shown_uri, without_secrets


def plan_reject(key: str, reason: str, message: str, row: dict[str, Any] | None = None) -> Reject:
    """Make a reject of the plan. Addresses in its texts lose their secrets.

    Args:
        row: the entry as it was read.
    """
    row = row or {}
    uri = str(row.get("uri") or "")
    if uri:
        row = {**row, "uri": shown_uri(uri)}
    try:
        raw = without_secrets(json.dumps(row, ensure_ascii=False, default=str), [uri]) if row else ""
    except RecursionError:
        raw = ""  # nested too deep to be real data
    key, message, raw = _storable(shown_uri(key)), _storable(without_secrets(message, [uri])), _storable(raw)
    return Reject(stage="plan", unit=key, key=key, reason=reason, message=message, raw=raw)


def assert_storable(row: dict[str, Any]) -> None:
    """Check that a row can be written as UTF-8.

    Raises:
        UnicodeEncodeError: the row has half a surrogate pair, which JSON can express but no file can hold.
    """
    json.dumps(row, ensure_ascii=False, default=str).encode()


def _storable(text: str) -> str:
    """Replace lone surrogates by escapes. They stand for bytes of a file name that is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()
