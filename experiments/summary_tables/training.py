"""The tables of faults during training, and of what checkpoints cost."""

from experiments.summary_tables.formatting import fixed, markdown, percent, record, summary

_OUTCOMES = {
    "tried": "tried",
    "noticed": "warning or error",
    "unchanged": "no effect",
    "silently wrong": "silently wrong",
    "unclear error": "unclear error",
    "crash": "crash",
}


def faults() -> str:
    """Tabulates the outcomes of faults in files."""
    groups = record("faults")["results"]["groups"]
    rows = [(name, *(str(counts[outcome]) for outcome in _OUTCOMES)) for name, counts in groups.items()]
    return markdown(("", *_OUTCOMES.values()), rows)


def faults_in_short() -> str:
    """Lists the counts of faults, for the guide."""
    found = summary("faults")
    kills, files = found["kills"], found["files"]
    return "\n".join(
        (
            f"- {kills['tried']} processes of {kills['runs']} runs were killed, {kills['while saving']} of them while they saved. Lost "
            f"checkpoints: {kills['lost checkpoints']}. Runs that did not end bit for bit like an uninterrupted one: "
            f"{kills['runs that ended differently']}.",
            f"- {files['tried']:,} damaged or hostile checkpoints, histories and ONNX models were read. Silently wrong: "
            f"{files['silently wrong']}. Crashes: {files['crash']}. Errors that do not name the argument: {files['unclear error']}.",
        )
    )


def checkpoint_cost() -> str:
    """Tabulates the share of training time that checkpoints take."""
    rows = []
    for case, found in summary("checkpoint_cost").items():
        for way in ("in the background", "training waits"):
            cost = found[way]
            step = f"{found['seconds per step']:.2g}"
            rows.append((f"{case}, {way}", step, percent(0)(cost["share"]), fixed(2)(cost["seconds per save"])))
    load = record("checkpoint_cost")["results"]["load"][-1]  # the mean over 15 minutes
    return markdown(
        (
            f"state, cadence and way (load of the machine: {load:.0f})",
            "seconds per step",
            "share of the time",
            "seconds per checkpoint",
        ),
        rows,
    )
