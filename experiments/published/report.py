"""Formats the audit as Markdown tables and as JSON records."""

from typing import Any

from experiments.published import audit, fichou, rnn_package

LETTERS = """| | Fichou | general RNN formulas | Seo's post | Seo's script | here |
|---|---|---|---|---|---|
| input weight | U_k | U | W_k | wx_k | W_k |
| recurrent weight | W_k | W | Wrec_k | wrec_k | U_k |
| update gate | z, on the candidate | – | z | u = 1 − z, on the old state | z, on the candidate |
| candidate | g, W_g U_g | – | ca | c, wx_c wrec_c | g, W_h U_h |
| read-out | – | V | – | – | V |
| cotangent of the state | δ3 = δ1 + δ2 | ∂J/∂h | error | delta | h̄ |
"""


def table(verdicts: list[audit.Verdict]) -> str:
    """Formats one chain as a Markdown table."""
    heads = (
        "printed",
        "cotangent of",
        "verdict",
        "error of the line",
        "error in the printed chain",
        "corrected",
        "error in the corrected chain",
    )
    rows = [heads, ("---",) * len(heads)]
    for verdict in verdicts:
        line = verdict.equation
        rows.append(
            (
                f"{line.name} = {line.printed}",
                " + ".join(line.means),
                "right" if verdict.right else "**wrong**",
                f"{verdict.error:.1e}",
                f"{verdict.error_in_chain:.1e}",
                f"{line.name} = {line.correct}" if line.correct else "",
                f"{verdict.error_corrected:.1e}",
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def record(verdict: audit.Verdict) -> dict[str, Any]:
    """Converts a verdict to a JSON record."""
    line = verdict.equation
    return {
        "equation": f"{line.name} = {line.printed}",
        "means": line.means,
        "right": verdict.right,
        "error": verdict.error,
        "error_in_chain": verdict.error_in_chain,
        "corrected": line.correct,
        "error_corrected": verdict.error_corrected,
    }


def tables(readings: Any, package: Any, script: Any, results: Any) -> str:
    """Formats all tables as one Markdown document."""
    text = [
        "# The published derivations, line by line\n",
        "Errors are relative to the largest entry of the true cotangent, in float64.\n",
    ]
    forward = results["fichou_forward"]
    text += [f"## {fichou.SOURCE}\n", "| forward line | verdict | error |", "|---|---|---|"]
    for line, error in forward["errors"].items():
        text.append(f"| {line} | {'right' if error < audit.RIGHT else '**wrong**'} | {error:.1e} |")
    text.append(
        f"\nThe shapes of W_g * (h₋ · r) {forward['shapes of g for a batch of rows']} for a batch of rows, because W_g stands on the "
        "left, unlike all other weights. Correct is (h₋ · r) * W_g. The error in the table is for as many rows as units.\n"
    )
    for name, verdicts in readings.items():
        without = ", ".join(results["fichou_lines_without_shapes"][name]) or "none"
        text += [
            f"### Reading {name}\n",
            table(verdicts),
            f"Lines whose shapes do not match if input and hidden size differ: {without}.\n",
        ]
    text += [f"## {rnn_package.SOURCE}\n", table(package)]
    text += ["## Seo's x_gru.py: each error made alone in a derivation that is otherwise right\n"]
    text += ["| error | in the script | correct | ∂/∂wx_c, ∂/∂wrec_c | error of the gradient |", "|---|---|---|---|---|"]
    for line in script:
        bars = ", ".join(f"{value:.5f}" for value in line["wx_c, wrec_c"])
        text.append(f"| {line['error made']} | {line['printed']} | {line['correct']} | {bars} | {line['difference']:.1e} |")
    text += ["\nError 2 is not in a formula: only two of the six weights are trained.\n", "## Letters\n", LETTERS]
    return "\n".join(text)
