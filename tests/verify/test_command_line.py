"""`python -m gru_jax.verify`: a table of the built-in cells, or a case of one's own; the exit status says what came out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gru_jax.verify.__main__ import main
from tests.verify.rules import arguments, layer_norm

ROOT = Path(__file__).parents[2]


def right():
    return layer_norm(), arguments("layer_norm")


def wrong():
    return layer_norm("scale forgotten"), arguments("layer_norm")


def with_options():
    return layer_norm("scale forgotten"), arguments("layer_norm"), {"checks": ("primal",)}


def malformed():
    return layer_norm()


def test_a_case_of_ones_own_passes_or_fails_by_exit_status(capsys):
    case = "tests.verify.test_command_line"
    assert main([f"{case}:right", "--checks", "fast"]) == 0
    assert capsys.readouterr().out.startswith("PASS: layer_norm")
    assert main([f"{case}:wrong", "--checks", "fast"]) == 1
    assert "wrong: x" in capsys.readouterr().out
    assert main([f"{case}:with_options"]) == 0
    assert main([f"{case}:wrong", "--checks", "fast", "--json"]) == 1
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["ok"] is False


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("nowhere", "must read package.module:case, got 'nowhere'"),
        ("no.such:case", "cannot import 'no.such'"),
        ("tests.verify.test_command_line:absent", "has no function 'absent'"),
        ("tests.verify.test_command_line:malformed", "must return (function, arguments)"),
    ],
)
def test_a_case_that_cannot_be_run_is_exit_status_2_and_says_why(case, said, capsys):
    assert main([case]) == 2
    assert said in capsys.readouterr().err


def test_the_table_of_built_in_cells(capsys):
    assert main(["--only", "linear_rnn, no bias"]) == 0
    head, row, *_, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["case", "verdict", "passed", "failed", "worst", "error", "allowed", "not", "checked"]
    assert row.split()[:6] == ["linear_rnn,", "no", "bias", "PASS", "7", "0"]
    assert last == "PASS: 1 of 1 cases have no failed check"
    assert main(["--only", "linear_rnn, no bias", "--json", "--checks", "primal"]) == 0
    assert json.loads(capsys.readouterr().out)["linear_rnn, no bias"]["ok"]
    assert main(["--only", "no such cell"]) == 2
    assert "no built-in case begins with 'no such cell'" in capsys.readouterr().err


def test_a_failing_cell_is_shown_in_full_and_fails_the_run(monkeypatch, capsys):
    import gru_jax.verify.cases as cases

    monkeypatch.setattr(cases, "cases", lambda: {"good": right, "bad": wrong})
    assert main(["--checks", "fast"]) == 1
    out = capsys.readouterr().out
    assert "\nbad\nFAIL: layer_norm" in out
    assert out.endswith("FAIL: 1 of 2 cases have no failed check\n")


def test_verifying_ones_own_function_imports_no_case_of_the_cells(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax, jax.numpy as jnp, numpy as np\n"
        "f = jax.custom_vjp(lambda x: jnp.sin(x))\n"
        "f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (u * jnp.sin(x),))\n"
        "def case(): return f, (np.linspace(1, 2, 5, dtype=np.float32),)\n"
        "import atexit, sys\n"
        "atexit.register(lambda: print('cases' if 'gru_jax.verify.cases' in sys.modules else 'none'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "gru_jax.verify", "mine:case", "--checks", "fast"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert run.returncode == 1, run.stderr
    assert run.stdout.startswith("FAIL: <lambda>")
    assert run.stdout.endswith("none\n")
