"""`python -m gru_jax.verify` prints a table of built-in cells or a report, and sets the status."""

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


def raising():
    raise RuntimeError("no data")


def without_floats():
    return layer_norm(), (1, 2, 3)


def test_the_exit_status_tells_whether_a_case_passes(capsys):
    case = "tests.verify.test_command_line"
    assert main([f"{case}:right", "--checks", "fast"]) == 0
    assert capsys.readouterr().out.startswith("RIGHT: layer_norm")
    assert main([f"{case}:wrong", "--checks", "fast"]) == 1
    assert capsys.readouterr().out.startswith("WRONG GRADIENT of x: layer_norm")
    assert main([f"{case}:with_options"]) == 1  # the only check is not one of gradients
    assert capsys.readouterr().out.startswith("NOT CHECKED: layer_norm")
    assert main([f"{Path(__file__)}::right", "--checks", "fast", "--full"]) == 0
    assert "versions: python" in capsys.readouterr().out
    assert main([f"{case}:wrong", "--checks", "fast", "--json"]) == 1
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["ok"] is False


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nowhere", "case must have the form file.py::case or package.module:case, got 'nowhere'"),
        ("no.such:case", "case must name an importable module, got 'no.such'"),
        ("tests.verify.test_command_line:absent", "case must name a function in tests.verify.test_command_line, got 'absent'"),
        ("tests.verify.test_command_line:malformed", "must return (fun, args)"),
        ("tests.verify.test_command_line:raising", "raises RuntimeError: no data"),
        ("tests.verify.test_command_line:without_floats", "raises ValueError: args must contain a floating array"),
        ("no_such_file.py::case", "case must name a file, got 'no_such_file.py'"),
    ],
)
def test_a_case_that_cannot_run_gives_exit_status_2_and_a_reason(case, message, capsys):
    assert main([case]) == 2
    assert message in capsys.readouterr().err


def test_no_seconds_at_all_is_an_error(capsys):
    assert main(["tests.verify.test_command_line:right", "--seconds", "0"]) == 2
    assert "seconds must be positive or None, got 0.0" in capsys.readouterr().err


def test_the_table_has_a_row_for_each_built_in_case(capsys):
    assert main(["--only", "linear_rnn, no bias"]) == 0
    head, row, *_, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["case", "verdict", "passed", "failed", "worst", "error", "allowed", "not", "checked"]
    assert row.split()[:6] == ["linear_rnn,", "no", "bias", "RIGHT", "7", "0"]
    assert last == "0 of 1 cases are wrong or not checked"
    assert main(["--only", "linear_rnn, no bias", "--json", "--checks", "gradient"]) == 0
    assert json.loads(capsys.readouterr().out)["linear_rnn, no bias"]["ok"]
    assert main(["--only", "no such cell"]) == 2
    assert "--only must be the start of a built-in case's name, got 'no such cell'" in capsys.readouterr().err


def test_a_failing_cell_is_reported_in_full_and_gives_exit_status_1(monkeypatch, capsys):
    import gru_jax.verify.cases as cases

    monkeypatch.setattr(cases, "cases", lambda: {"good": right, "bad": wrong})
    assert main(["--checks", "fast"]) == 1
    out = capsys.readouterr().out
    assert "\nbad\nWRONG GRADIENT of x: layer_norm" in out
    assert out.endswith("1 of 2 cases are wrong or not checked\n")


@pytest.mark.slow
def test_verifying_a_function_of_the_user_does_not_import_the_built_in_cases(tmp_path):
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
    assert run.stdout.startswith("WRONG GRADIENT of x: <lambda>")
    assert run.stdout.endswith("none\n")
