"""Findings about a build as data."""

import pytest
from pydantic import ValidationError

from schemas.base import parse_json
from schemas.findings import Finding, Findings, Severity


def finding(severity, code="same_family", **fields):
    return Finding(severity=severity, code=code, subject="Writer and judge", message="a and a", **fields)


def test_a_finding_is_one_line():
    assert str(finding(Severity.WARNING)) == "warning: Writer and judge: a and a [same_family]"
    found = Finding(severity="error", code="a", subject="b", message="two\nlines\x1b[31m")
    assert found.message == "two\\nlines\\x1b[31m"


@pytest.mark.parametrize("fields", [{"severity": "fatal"}, {"code": "Same family"}])
def test_severity_and_code_are_words(fields):
    with pytest.raises(ValidationError):
        Finding(**{"severity": "info", "code": "a", "subject": "b", "message": "c", **fields})


def test_problems_are_all_but_those_of_info():
    found = [finding(severity) for severity in (Severity.ERROR, Severity.WARNING, Severity.INFO)]
    findings = Findings(run_id="run", findings=tuple(found))
    assert findings.problems == tuple(found[:2])
    assert findings.counts() == {"error": 1, "warning": 1, "info": 1}


def test_findings_are_the_same_after_a_round_trip():
    findings = Findings(run_id="run", findings=(finding("warning", figures={"videos": 3, "share": 0.5}),))
    assert parse_json(findings.model_dump_json(), Findings, "findings.json") == findings
