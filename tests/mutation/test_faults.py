"""Every planted fault applies to the current source, and the runner reads what pytest reports."""

import ast

from tests.mutation.planting import GROUPS, ROOT, all_faults, planted, with_fault
from tests.mutation.running import Outcome, outcome_of
from tests.problems import assert_raises

FAULTS = all_faults()


def test_every_fault_replaces_one_place_and_leaves_valid_python():
    texts = {fault.file: (ROOT / "gru_jax" / fault.file).read_text("utf-8") for fault in FAULTS}
    for fault in FAULTS:
        assert fault.old != fault.new
        ast.parse(with_fault(fault, texts[fault.file]))


def test_every_fault_has_its_own_description_and_names_test_modules_that_exist():
    assert len({(fault.file, fault.what) for fault in FAULTS}) == len(FAULTS) >= 150
    assert {fault.group for fault in FAULTS} == set(GROUPS)
    assert all(fault.likely for fault in FAULTS)
    assert not {module for fault in FAULTS for module in fault.likely if not (ROOT / module).exists()}


def test_text_that_occurs_twice_raises():
    text = (ROOT / "gru_jax" / FAULTS[0].file).read_text("utf-8")
    assert_raises(lambda: with_fault(FAULTS[0], text + text), ValueError, "got 2 times .*expected it once")


def test_a_planted_fault_is_removed_afterwards(tmp_path):
    fault = FAULTS[0]
    path = tmp_path / "gru_jax" / fault.file
    path.parent.mkdir(parents=True)
    text = f"a = 1\n{fault.old}\n"
    path.write_text(text, "utf-8")
    with planted(fault, tmp_path):
        assert path.read_text("utf-8") == f"a = 1\n{fault.new}\n"
    assert path.read_text("utf-8") == text


def test_the_first_failure_is_read_from_the_output_of_pytest():
    assert outcome_of(0, "12 passed in 3.21s") == Outcome(True, "")
    failed = "F\nFAILED tests/test_heads.py::test_bad_input_raises[a b - c] - assert 1 == 2\n1 failed in 0.1s"
    assert outcome_of(1, failed).text.startswith("tests/test_heads.py::test_bad_input_raises[a b")
    assert outcome_of(1, "ERROR tests/test_flow.py - ImportError: no\n") == Outcome(False, "tests/test_flow.py")
    assert outcome_of(-11, "") == Outcome(False, "crashes: pytest ended with status -11")
    assert_raises(lambda: outcome_of(5, "no tests ran"), RuntimeError, "status 5:.no tests ran")
