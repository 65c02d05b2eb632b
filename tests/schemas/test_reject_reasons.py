"""The list of reject reasons has every reason that the code gives, and no other."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from schemas.reject_reasons import (
    FILE_REASONS,
    MACHINE_REASONS,
    REASON_GROUPS,
    Fault,
    ReasonGroup,
    find_reason,
    to_markdown,
)

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "schemas/tables.py", *sorted((ROOT / "operators").rglob("*.py"))]
SUMMARIES = {"RejectGroup"}
"""Classes with a field `reason` that they take from rejects which exist already."""


def reason_place(definition: ast.FunctionDef | ast.ClassDef) -> int | None:
    """Position of the parameter or field `reason: str` among the arguments of a call, without `self`."""
    if isinstance(definition, ast.ClassDef):
        init = [each for each in definition.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        if init:
            return reason_place(init[0])
        fields = [each for each in definition.body if isinstance(each, ast.AnnAssign)]
        pairs = [(each.target.id, each.annotation) for each in fields if isinstance(each.target, ast.Name)]
    else:
        pairs = [(each.arg, each.annotation) for each in definition.args.args if each.arg != "self"]
    for place, (name, annotation) in enumerate(pairs):
        if name == "reason" and isinstance(annotation, ast.Name) and annotation.id == "str":
            return place
    return None


class ReasonFinder(ast.NodeVisitor):
    """Collects the reasons that a module's calls pass to parameters named `reason`."""

    def __init__(self, module: ast.Module, imported: dict[str, int], methods: dict[str, int]) -> None:
        own = {node.name: reason_place(node) for node in ast.walk(module) if is_definition(node)}
        self.functions = {name: place for name, place in (imported | own).items() if place is not None}
        self.methods = methods
        self.stack: list[ast.FunctionDef] = []
        self.found: set[str] = set()
        self.visit(module)

    def visit_FunctionDef(self, function: ast.FunctionDef) -> None:
        self.stack.append(function)
        self.generic_visit(function)
        self.stack.pop()

    def visit_Call(self, call: ast.Call) -> None:
        self.generic_visit(call)
        match call.func:
            case ast.Attribute(attr=name):
                place = self.methods.get(name)
            case ast.Name(id=name):
                place = self.functions.get(name)
            case _:
                place = None
        named = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
        if place is not None and (given := named or call.args[place : place + 1]):
            self.found.update(self.values(given[0]))
        elif place is not None and any(isinstance(each, ast.Starred) for each in call.args):
            pytest.fail(f"{ast.unparse(call)}: its reason cannot be followed; pass it as a literal")

    def values(self, expression: ast.expr) -> Iterator[str]:
        """The literals that an expression may be. Reasons that another call has given already are not among them."""
        match expression:
            case ast.Constant(value=str(reason)):
                yield reason
            case ast.IfExp(body=first, orelse=second):
                yield from self.values(first)
                yield from self.values(second)
            case ast.Attribute(attr="reason"):
                pass
            case ast.Name(id=name) if name in {each.arg for each in self.stack[-1].args.args}:
                pass
            case ast.Name(id=name) if assigned := list(assignments(self.stack[-1], name)):
                for value in assigned:
                    yield from self.values(value)
            case _:
                pytest.fail(f"{ast.unparse(expression)} cannot be followed to a reason; pass it as a literal")


def assignments(function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            yield node.value


def is_definition(node: ast.AST) -> TypeGuard[ast.FunctionDef | ast.ClassDef]:
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in SUMMARIES


def reasons_in(files: list[Path]) -> set[tuple[str, str]]:
    """File and reason, for each reason that the code of these files gives."""
    modules = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    nodes = [node for module in modules.values() for node in module.body if is_definition(node)]
    public = {node.name: place for node in nodes if (place := reason_place(node)) is not None}
    methods = {
        method.name: place
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name != "__init__"
        if (place := reason_place(method)) is not None
    }
    return {
        (path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name, reason)
        for path, module in modules.items()
        for reason in ReasonFinder(module, public, methods).found
    }


def decides(group: ReasonGroup, file: str, reason: str) -> bool:
    return reason in group.reasons and any(file == code or file.startswith(f"{code}/") for code in group.code)


GIVEN = reasons_in(FILES)


def test_every_reason_that_the_code_gives_is_in_the_list():
    missing = {each for each in GIVEN if not any(decides(group, *each) for group in REASON_GROUPS)}
    assert missing == set(), "enter them in schemas/reject_reasons.py"


def test_every_reason_in_the_list_is_given_by_the_code_that_it_names():
    unused = {
        (group.title, reason)
        for group in REASON_GROUPS
        for reason in group.reasons
        if not any(decides(group, *each) for each in GIVEN)
    }
    assert unused == set(), "remove them from schemas/reject_reasons.py"


def test_all_code_that_the_list_names_gives_one_of_its_reasons():
    for group in REASON_GROUPS:
        for code in group.code:
            assert any(decides(group, *each) and each[0].startswith(code) for each in GIVEN), (group.title, code)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise Refused("a", "b")', {"a"}),
        ('def f(reason: str): raise Refused(reason, "b")\nf("c")', {"c"}),
        ('def f(x):\n    word = "d" if x else "e"\n    return context.reject("key", word, "b")', {"d", "e"}),
        ('try: pass\nexcept Refused as error: context.reject("key", error.reason, "b")', set()),
        ('Reject(reason="g", key="h")', {"g"}),
        ("row.reject(name)", set()),
        ('def reject_row(key, message): pass\nreject_row("key", "a message")', set()),
    ],
)
def test_reasons_are_found_in_each_form_in_which_code_gives_them(tmp_path, source, expected):
    (tmp_path / "base.py").write_text(
        "class Refused(ValueError):\n    def __init__(self, reason: str, message: str): pass\n"
        "class Reject:\n    key: str\n    reason: str = Field()\n"
        "class Context:\n    def reject(self, key: str, reason: str, message: str): pass\n"
    )
    (tmp_path / "code.py").write_text(source)
    found = reasons_in([tmp_path / "base.py", tmp_path / "code.py"])
    assert found == {("code.py", reason) for reason in expected}


def test_a_reason_that_cannot_be_followed_fails(tmp_path):
    (tmp_path / "code.py").write_text("def f(reason: str): pass\nf(choose_reason())")
    with pytest.raises(pytest.fail.Exception, match="cannot be followed"):
        reasons_in([tmp_path / "code.py"])


def test_all_stages_in_the_list_exist():
    assert {stage for group in REASON_GROUPS for stage in group.stages} <= {"plan", *VIDEO_STAGES, *BUILD_STAGES}


def test_a_stage_has_one_entry_for_a_reason():
    pairs = [(stage, reason) for group in REASON_GROUPS for stage in group.stages for reason in group.reasons]
    assert len(pairs) == len(set(pairs))


def test_a_reason_of_several_groups_has_the_same_fault_in_all():
    for temporary, faults in ((MACHINE_REASONS, {Fault.MACHINE, Fault.FILE}), (FILE_REASONS, {Fault.FILE})):
        for group in REASON_GROUPS:
            assert {name for name, reason in group.reasons.items() if reason.fault in faults} == (
                temporary & group.reasons.keys()
            )


def test_temporary_rejects_are_those_of_machine_and_file():
    assert {"missing_file", "source_changed", "system_error", "killed"} == MACHINE_REASONS
    assert {"missing_file", "source_changed"} == FILE_REASONS


def test_a_reason_means_what_its_stage_means_by_it():
    cut_off, out_of_tokens = find_reason("ingest", "truncated"), find_reason("reason", "truncated")
    assert "The file was cut off" in cut_off.meaning
    assert "ran out of tokens" in out_of_tokens.meaning
    assert find_reason("ingest", "of_an_older_version") is None


def test_the_page_in_docs_is_the_list():
    page = (ROOT / "docs" / "rejects.md").read_text(encoding="utf-8")
    assert page == to_markdown(), "run `python -m schemas.reject_reasons`"
