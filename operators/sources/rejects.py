"""The reject of a plan: one entry of the user's list that cannot be used, whatever bytes it is made of."""

from __future__ import annotations

import json
from typing import Any

from schemas.tables import Reject
from schemas.uri import shown_uri, without_secrets


def plan_reject(key: str, reason: str, message: str, row: dict[str, Any] | None = None) -> Reject:
    """A reject of the plan; `row` is the entry as it was read. Addresses in it lose their secrets."""
    row = row or {}
    uri = str(row.get("uri") or "")
    if uri:
        row = {**row, "uri": shown_uri(uri)}
    try:
        raw = without_secrets(json.dumps(row, ensure_ascii=False, default=str), [uri]) if row else ""
    except RecursionError:
        raw = ""  # nested too deep to be anybody's data
    key, message, raw = _storable(shown_uri(key)), _storable(without_secrets(message, [uri])), _storable(raw)
    return Reject(stage="plan", unit=key, key=key, reason=reason, message=message, raw=raw)


def assert_storable(row: dict[str, Any]) -> None:
    """Raises UnicodeEncodeError for a row with half a surrogate pair, which JSON can spell and no file can hold."""
    json.dumps(row, ensure_ascii=False, default=str).encode()


def _storable(text: str) -> str:
    """File names that are not UTF-8 come as lone surrogates: shown as escapes."""
    return text.encode(errors="backslashreplace").decode()
