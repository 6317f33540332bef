"""The list of faults stays one that can be tried: see `mutants.py`, which tries them."""

import ast

import mutations
import pytest
from faults import MUTANTS
from mutants import PACKAGE, ROOT


@pytest.mark.parametrize("fault", MUTANTS, ids=lambda fault: f"{fault.file}: {fault.what}")
def test_a_fault_is_still_possible_and_has_its_test(fault):
    text = (PACKAGE / fault.file).read_text("utf-8")
    assert (text.count(fault.old), fault.new == fault.old) == (1, False)
    ast.parse(text.replace(fault.old, fault.new))
    path, name = fault.test.split("::")
    functions = [node.name for node in ast.parse((ROOT / path).read_text("utf-8")).body if hasattr(node, "name")]
    assert name in functions


def test_faults_are_told_apart():
    names = [f"{fault.file}: {fault.what}" for fault in MUTANTS]
    assert len(set(names)) == len(names) >= 40


def test_each_module_of_the_wire_has_tests_that_are_to_notice_its_mutants():
    modules = {"endpoint.py", *(f"wire/{path.name}" for path in (PACKAGE / "wire").glob("[!_]*.py"))}
    assert modules == {*mutations.TESTS}
    named = {name for names in mutations.TESTS.values() for name in names}
    assert {name for name in named if not (ROOT / "tests" / f"{name}.py").exists()} == set()


def test_mutants_of_the_syntax_differ_from_the_code_and_each_other():
    mutants = mutations.of_file(PACKAGE, "wire/query.py")
    texts = {mutant.text for mutant in mutants} | {(PACKAGE / "wire/query.py").read_text("utf-8")}
    assert len(texts) == len(mutants) + 1 > 40


@pytest.mark.parametrize("file", mutations.EQUIVALENT)
def test_what_is_said_of_lines_is_said_of_lines_that_there_are(file):
    there_are = {mutant.line for mutant in mutations.of_file(PACKAGE, file)}
    assert set(mutations.EQUIVALENT[file]) - there_are == set()
