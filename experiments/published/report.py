"""The audit's tables in Markdown, and its rows for the record."""

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
    """One chain as a Markdown table."""
    heads = ("printed", "means the cotangent of", "verdict", "error of the line", "in its chain", "corrected", "then")
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


def row(verdict: audit.Verdict) -> dict[str, Any]:
    """A verdict for the record."""
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
    """All tables, in Markdown."""
    text = [
        "# The published derivations, line by line\n",
        "Errors are relative to the largest entry of the true cotangent; float64.\n",
    ]
    forward = results["fichou_forward"]
    text += [f"## {fichou.SOURCE}\n", "| forward line | verdict | error |", "|---|---|---|"]
    for line, error in forward["errors"].items():
        text.append(f"| {line} | {'right' if error < audit.RIGHT else '**wrong**'} | {error:.1e} |")
    text.append(
        f"\nThe shapes of W_g * (h₋ · r) {forward['shapes of g for a batch of rows']} for a batch of rows: W_g stands on the other "
        "side than all other weights. Meant: (h₋ · r) * W_g. (Its error is with as many rows as units.)\n"
    )
    for name, verdicts in readings.items():
        without = ", ".join(results["fichou_lines_without_shapes"][name]) or "none"
        text += [
            f"### Reading {name}\n",
            table(verdicts),
            f"Without matching shapes where input and hidden size differ: {without}.\n",
        ]
    text += [f"## {rnn_package.SOURCE}\n", table(package)]
    text += ["## Seo's x_gru.py: each error alone, in a derivation that is right otherwise\n"]
    text += ["| error | in the script | right | ∂/∂wx_c, ∂/∂wrec_c | off by |", "|---|---|---|---|---|"]
    for line in script:
        bars = ", ".join(f"{value:.5f}" for value in line["wx_c, wrec_c"])
        text.append(f"| {line['error made']} | {line['printed']} | {line['correct']} | {bars} | {line['difference']:.1e} |")
    text += ["\nError 2: of six weights two are trained.\n", "## Letters\n", LETTERS]
    return "\n".join(text)
