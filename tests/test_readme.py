"""The README's demo and the examples in docstrings run as printed; its files exist; its figures come from results."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import gru_jax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MODULES = [module.name for module in pkgutil.walk_packages(gru_jax.__path__, "gru_jax.")]


@pytest.fixture
def float32_as_users_have_it():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


def test_the_demo_of_the_readme_runs_as_printed(float32_as_users_have_it):
    failed, attempted = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert attempted >= 5
    assert failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run_as_printed(name, float32_as_users_have_it):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_cell_shows_a_cell_of_ones_own():
    import gru_jax.cell

    examples = [test for test in doctest.DocTestFinder().find(gru_jax.cell.Cell) if test.examples]
    assert examples


def test_every_file_the_readme_names_exists():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_readmes_demo_is_short():
    demo = README.split("```python")[1].split("```")[0].strip().splitlines()
    assert len([line for line in demo if line.startswith((">>>", "..."))]) <= 12


def result(name):
    return json.loads((ROOT / "experiments" / "results" / name / "results.json").read_text("utf-8"))


def test_the_figures_of_both_readmes_are_those_of_the_results():
    digits, count_ones, by_hand = (result(name) for name in ("digits", "count_ones", "gru_by_hand"))
    percent = lambda cell: ", ".join(f"{100 * accuracy:.2f}" for accuracy in digits["summary"][f"{cell}_test_accuracy"]) + " %"
    published = by_hand["results"]["five_sequences"]["published"]
    at_its_rates = published["correct GRU, the script's rates, cost at 5000"]["ours"]
    in_both = [
        percent("gru"),
        f"{digits['summary']['largest_gradient_difference']:.1e}",
        f"{published['script, cost at 4999']['ours']:.7f}",
        f"{at_its_rates:.7f}",
        str(count_ones["summary"]["equal"]),
    ]
    flow = result("gradient_flow")["summary"]
    four = lambda found: ", ".join(f"{found[name]:.2g}" for name in ("linear RNN", "tanh RNN", "GRU", "LSTM"))
    audit = result("published_derivations")["summary"]
    assert "{} or {}, ".format(*audit["fichou_wrong"].values()) + f"{audit['package_wrong']} |" in README
    checkers = result("gradient_checkers")["summary"]
    missed = lambda *names: "; ".join(", ".join(str(kind[name]) for kind in checkers["missed"].values()) for name in names)
    three = ("check_grads, float32", "check_grads, float64", "gj.verify_vjp")
    at = lambda kind, what: ", ".join(str(checkers[what][kind][name]) for name in three)
    assert f"{at('ordinary', 'missed')}; {at('saturated', 'missed')} |" in README
    assert f"{at('saturated', 'right_rejected')} |" in README
    assert f"of {checkers['wrong']}, accepted" in README
    percent_of_sums = lambda how: ", ".join(f"{100 * share:.0f}" for share in audit["sums_right"][how])
    cost = result("gradient_flow")["results"]["cost"]
    over_gradient = lambda name: ", ".join(f"{row[f'{name}_ms'] / row['gradient_ms']:.0f}" for row in cost)
    in_the_table = [
        f"| {missed(*three[:2])} |",
        f"| {missed('x̄ alone', 'every leaf, allclose')} |",
        f"| {missed(three[2])}; {', '.join(map(str, checkers['missed_by_verify_vjp_silently'].values()))} |",
        f"| {at('saturated', 'right_rejected')} |",
        f"{over_gradient('contributions')}; {over_gradient('contribution_norms')}",
        "| {}; {} |".format(*audit["fichou_wrong"].values()),
        f"of {audit['package_lines']} | | {audit['package_wrong']} |",
        f"{audit['largest_error_corrected']:.1e}; {audit['two_layers']['corrected']:.1e}",
        f"{audit['double_sum']:.1e}",
        "; ".join(map(percent_of_sums, audit["sums_right"])) + " %",
        *(four(flow[key]) for key in ("kept_before", "kept_after", "loss_after")),
        f"{flow['largest_difference_of_the_sum']:.1e}",
        *figures_of_the_derivatives().values(),
        percent("lstm"),
        percent("tanh"),
        f"{count_ones['summary']['rprop_wx']:.4f}, {count_ones['summary']['rprop_wrec']:.4f}",
        f"{count_ones['summary']['sharing_multiplications_ratio']:.1f}",
        f"{by_hand['summary']['largest_difference_of_a_part']:.1e}",
        f"{by_hand['summary']['operations_from_scratch']} → {by_hand['summary']['operations_shared']}",
        f"{by_hand['summary']['final_cost']['correct, lr 0.01']:.7f}",
        f"{by_hand['summary']['final_cost']['correct, lr 0.01, cost at every stamp']:.7f}, "
        f"{by_hand['results']['five_sequences']['every_stamp_run_by_last_state']:.7f}",
    ]
    in_the_table += [f"| {figure} |" for figure in figures_of_training_speed().values()]
    table = (ROOT / "experiments" / "README.md").read_text("utf-8")
    speed = figures_of_training_speed()
    for figure in [*in_both, f"| {speed['devices']}; {speed['devices, seeds']} |"]:
        assert figure in README, figure
    for figure in in_both + in_the_table:
        assert figure in table, figure


def figures_of_the_music():
    """By name, the figures of the music as both READMEs print them."""
    found, records = {}, result("polyphonic_music")["results"]
    mean = lambda values: sum(values) / len(values)
    units = ("tanh RNN", "GRU", "LSTM")
    for name, by_unit in result("polyphonic_music")["summary"]["test"].items():
        found[f"{name}, means"] = ", ".join(f"{mean(by_unit[unit]):.2f}" for unit in units)
        for unit in {"GRU", "larger GRU"} & set(by_unit):
            found[f"{name}, {unit}"] = ", ".join(f"{value:.2f}" for value in by_unit[unit])
        runs = [records[name][unit]["runs"] for unit in units]
        for average in ("per_piece", "pooled_first"):
            found[f"{name}, {average}"] = ", ".join(f"{mean([run['test'][average] for run in each]):.2f}" for each in runs)
    return found


def figures_of_the_derivatives():
    """By name, what derived derivatives cost, as both READMEs print it."""
    speed = result("derivative_cost")["summary"]
    kinds = ("plain", "lengths and resets")
    pair = lambda key: ", ".join(f"{speed[kind][key]:.2f}" for kind in kinds)
    found = {
        kind: f"{speed[kind]['autodiff_over_adjoint']:.2f}, {speed[kind]['slowest_autodiff_over_adjoint']:.2f}"
        for kind in kinds
    }
    keys = {"memory": "temp_adjoint_over_autodiff", "both": "both_over_adjoint", "tangent": "tangent_autodiff_over_both"}
    return found | {name: pair(key) for name, key in keys.items()}


def figures_of_training_speed():
    """By name, the figures of training as the README of the experiments prints them."""
    speed = result("training_speed")["summary"]
    gains = lambda key: ", ".join(f"{gain:.2f}" for gain in speed[key].values())
    return {
        "devices": gains("gain of one device per core"),
        "devices, seeds": gains("the same, several seeds at once"),
        "loop": gains("gain over a Python loop"),
        "start": "; ".join(f"{seconds:.2f}" for seconds in speed["seconds at the start"].values()),
    }


def figures_of_the_benchmark():
    """By name, the figures of the benchmark as both READMEs print them."""
    found = result("benchmark")["summary"]
    after, before = "GRU, reset after", "GRU"
    pair = lambda entry: f"{entry['mean']:.2f}, {entry['least']:.2f}"
    groups = lambda cell, key: "; ".join(pair(found[f"{group}, {cell}"][key]) for group in ("larger", "tiny"))
    figures = {f"{cell}, fastest": groups(cell, "fastest_over_ours") for cell in (after, before, "LSTM", "tanh RNN")}
    every = lambda cell: pair(found[f"batched, {cell}"]["fastest_over_ours"])
    figures |= {f"{cell}, every group": f"{figures[f'{cell}, fastest']}; {every(cell)}" for cell in (after, before)}
    figures |= {f"{cell}, autodiff": groups(cell, "autodiff_over_ours") for cell in (after, before, "LSTM", "tanh RNN")}
    figures["PyTorch"] = groups(after, "PyTorch_over_ours")
    larger = found[f"larger, {after}"]
    for kind in ("plain", "checkpointed"):
        memory, speed = larger[f"temp_states_over_leanest_{kind}"], larger[f"fastest_{kind}_over_states"]
        figures[f"states, {kind}"] = f"{memory:.2f}, {speed:.2f}"
    compiling = lambda cell: "{:.2f}, {:.2f}".format(
        *(found[f"{group}, {cell}"]["compile_ours_over_slowest"] for group in ("larger", "tiny"))
    )
    figures["compile"], figures["compile, others"] = compiling(after), "; ".join(map(compiling, (before, "LSTM", "tanh RNN")))
    figures["floor"] = f"{larger['time_over_floor']:.2f}"
    for axis in "TBH":
        figures[f"over {axis}"] = ", ".join(f"{value:.2f}" for value in found[f"over {axis}, fastest_over_ours"])
    figures["bfloat16"] = f"{found['over bfloat16, fastest_over_ours'][0]:.2f}"
    figures["batched"] = "; ".join(
        pair(found[f"batched, {cell}"]["fastest_over_ours"]) for cell in (after, before, "LSTM", "tanh RNN")
    )
    figures["forward"] = "; ".join(pair(found[f"forward, {cell}, fastest_over_ours"]) for cell in (after, before, "LSTM"))
    figures["inputs"] = pair(found[f"weights and inputs, {after}, fastest_over_ours"])
    figures["devices"] = "; ".join(
        (pair(found["devices, shard_map"]["fastest_over_ours"]), pair(found["devices, Auto jit"]["autodiff_over_ours"]))
    )
    figures["policy"] = f"{found['policy updates']['Flax NNX']:.2f}, {found['policy updates']['autodiff']:.2f}"
    step, fixed = found["a single step"], ", weights fixed"
    as_arguments = f"{step['Flax NNX']:.2f}, {step['Equinox']:.2f}"
    figures["step"] = (
        as_arguments + "; " + ", ".join(f"{step[name + fixed] / step['ours' + fixed]:.2f}" for name in ("Flax NNX", "Equinox"))
    )
    return figures


def test_the_figures_of_the_benchmark_are_those_of_the_results():
    table = (ROOT / "experiments" / "README.md").read_text("utf-8")
    figures = figures_of_the_benchmark()
    for name, figure in figures.items():
        assert name.endswith("every group") or f"| {figure} |" in table, (name, figure)
    for name in (
        "GRU, reset after, every group",
        "GRU, every group",
        "PyTorch",
        "states, plain",
        "states, checkpointed",
        "devices",
    ):
        assert f"| {figures[name]} |" in README, name
    cost = figures_of_the_derivatives()
    assert f"| {cost['plain']}; {cost['lengths and resets']} |" in README


def figures_of_the_tasks():
    """The same of the standard tasks."""
    shares = lambda values, digits=1: ", ".join(f"{100 * value:.{digits}f}" for value in values) + " %"
    found = {}

    of = lambda name: result(name)["summary"]
    adding, addition, characters = of("adding"), of("binary_addition"), of("char_lm")
    for kind, values in adding["mse"].items():
        found[f"adding, {kind}"] = ", ".join(f"{value:.1e}" for value in values)
        if kind.startswith("T = 400"):
            found[f"adding unsolved, {kind}"] = shares(adding["unsolved"][kind])
    for T, kinds in of("copy_memory")["accuracy"].items():
        found |= {f"copying, {T}, {kind}": shares(values) for kind, values in kinds.items()}
    for how in ("package", "package, highest bit first"):
        found |= {f"addition, {how}, {cell}": shares(values, 0) for cell, values in addition["sums_right"][how].items()}
    found |= {f"addition, 64 bits, {cell}": shares(by["64"], 0) for cell, by in addition["sums_right_of_bits"].items()}
    for cell, by in of("parity")["accuracy"].items():
        found |= {f"parity, {cell}, {lengths}": shares(values) for lengths, values in by.items()}
    found["characters"] = ", ".join(f"{value:.3f}" for value in characters["valid_nats"])
    found["bigram"] = f"{characters['bigram_nats']:.3f}"
    return found | {f"pixels, {kind}": shares(values) for kind, values in of("digits_by_pixels")["test_accuracy"].items()}


def test_the_figures_of_the_sweep_are_those_of_the_results():
    sweep = result("block_sizes")["summary"]
    entries = [sweep[f"chosen over best {key}"] for key in ("blocks", "products")]
    row = "| " + "; ".join(f"{entry['mean']:.2f}, {entry['most']:.2f}" for entry in entries) + " |"
    assert row in (ROOT / "experiments" / "README.md").read_text("utf-8"), row


def test_the_figures_of_the_music_and_the_tasks_are_those_of_the_results():
    table = (ROOT / "experiments" / "README.md").read_text("utf-8")
    music = figures_of_the_music()
    in_the_text = {name for name in music if name.endswith(("per_piece", "pooled_first")) and not name.startswith("MuseData")}
    for name, figure in (music | figures_of_the_tasks()).items():
        assert name in in_the_text or figure in table, (name, figure)
    means = "; ".join(music[f"{name}, means"] for name in ("JSB Chorales", "Nottingham", "MuseData", "Piano-midi"))
    for row in (means, f"{music['JSB Chorales, larger GRU']}; {music['Nottingham, larger GRU']}"):
        assert f"| {row} |" in README, row


def test_the_minutes_are_those_of_the_results():
    table = (ROOT / "experiments" / "README.md").read_text("utf-8")
    for path in sorted((ROOT / "experiments" / "results").iterdir()):
        minutes = max(round(result(path.name)["seconds"] / 60), 1)
        (row,) = re.findall(rf"^\| \[{path.name}\].*$", table, re.MULTILINE)
        assert row.endswith(f"| {minutes} |"), (path.name, minutes)
