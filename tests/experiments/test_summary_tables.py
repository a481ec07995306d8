"""Tests that the tables of the READMEs, of the documentation and in files match the committed results."""

import json
import re

import pytest

from experiments import summary_tables
from experiments.__main__ import experiments
from experiments.music import report as music_report
from experiments.speed import report as speed_report
from experiments.speed.problem import Shape
from experiments.summary_tables.formatting import ROOT, markdown, record

README, EXPERIMENTS, RESULTS, PERFORMANCE, GPU, TRAIN, TESTS = (path.read_text("utf-8") for path in summary_tables.PAGES)


@pytest.mark.parametrize("path", summary_tables.PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_built_from_the_results(path):
    text = path.read_text("utf-8")
    assert summary_tables.with_tables(text) == text, "run python -m experiments.summary_tables"


def test_files_linked_by_the_experiments_readme_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", EXPERIMENTS)
    assert len(links) >= len(experiments())
    for path in links:
        assert (ROOT / "experiments" / path).exists(), path


def test_every_table_stands_on_one_page():
    assert summary_tables.tables_in(README) == ["why", "main_results"]
    assert summary_tables.tables_in(EXPERIMENTS) == ["index"]
    shown = [name for page in (RESULTS, PERFORMANCE, GPU, TRAIN, TESTS) for name in summary_tables.tables_in(page)]
    assert sorted([*shown, "main_results", "why", "index"]) == sorted(summary_tables.TABLES)


def numbers_of(cell):
    """Returns the numbers of a cell, without exponents, link targets, qualifications and published conditions."""
    cell = re.sub(r"\]\([^)]*\)", "]", cell)
    return re.findall(r"(?<![\w.])\d[\d.]*(?:e-\d+)?", cell.split(" at ")[0].split(" before ")[0])


@pytest.mark.parametrize(
    "name", sorted(set(summary_tables.TABLES) - {"index", "why", "faults_in_short", "benchmark_growth", "thresholds"})
)
def test_cells_have_at_most_one_number(name):
    header, _, *rows = summary_tables.TABLES[name]().splitlines()
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == header.count("|") - 1
        for cell in cells[1:]:
            assert len(numbers_of(cell)) <= 1 or cell in ("1/6 (guessing)", "≤ 1/3", "(T² + T) / (3T − 1)"), row


def test_every_published_number_on_the_results_page_has_its_source():
    tables = [
        table
        for table in (summary_tables.TABLES[name]() for name in summary_tables.tables_in(RESULTS))
        if "published or expected" in table
    ]
    assert len(tables) == 7
    for table in tables:
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        assert header[1:3] == ["published or expected", "source"]
        for row in rows:
            assert (row[1] == "–") == (row[2] == "–"), row


def test_index_lists_every_experiment_with_its_minutes():
    rows = re.findall(r"^\| \[(\w+)\]\(\w+\.py\) \| (.*) \| (\d+|needs a GPU) \|$", EXPERIMENTS, re.MULTILINE)
    assert {name: question for name, question, _ in rows} == experiments()
    for name, _, minutes in rows:
        assert minutes == "needs a GPU" if name == "gpu_speed" else int(minutes) == max(round(record(name)["seconds"] / 60), 1)


def test_key_figures_are_those_of_the_results():
    """Checks some figures independently of the code that builds the tables."""
    result = lambda name: json.loads((ROOT / "experiments" / "results" / name / "results.json").read_text("utf-8"))
    digits, benchmark = result("digits")["summary"], result("benchmark")["summary"]
    larger = benchmark["larger, GRU, reset after"]
    audit, checkers = result("published_derivations")["summary"], result("gradient_checkers")["summary"]
    published = result("gru_by_hand")["results"]["five_sequences"]["published"]
    after = f"{larger['fastest_over_ours']['mean']:.2f}"
    in_readme = [
        f"| {100 * sum(digits['gru_test_accuracy']) / 3:.2f} % |",
        f"| {digits['largest_gradient_difference']:.1e} |",
        f"six larger shapes | ≥ 1.4 | {after} |",
        f"library | ≤ 1/3 | {larger['temp_states_over_leanest_plain']:.2f} |",
    ]
    in_performance = [
        f"| ≥ 1.4 | {after} | {larger['fastest_over_ours']['least']:.2f} |",
        f"library | ≤ 1/3 | {larger['temp_states_over_leanest_plain']:.2f} |",
    ]
    faults, cost = result("faults")["summary"], result("checkpoint_cost")["summary"]["172 MB, after every step"]
    assert not any(faults["files"][outcome] for outcome in ("silently wrong", "unclear error", "crash"))
    assert not any(faults["kills"][what] for what in ("lost checkpoints", "runs that ended differently"))
    in_train = [
        f"- {faults['kills']['tried']} processes of {faults['kills']['runs']} runs were killed",
        f"step, in the background | {cost['seconds per step']:.2g} | {100 * cost['in the background']['share']:.0f} % |",
    ]
    in_results = [
        *in_readme[:2],
        f" | {result('count_ones')['summary']['equal']} |",
        f"wrong lines of {audit['package_lines']} | – | – | {audit['package_wrong']} |",
        f" | {published['script, cost at 4999']['ours']:.7f} |",
        f"wrong passes accepted | {' | '.join(str(kind['gj.verify_vjp']) for kind in checkers['missed'].values())} |",
        *(f"| {forward} | expected | {forward} |" for forward in audit["fichou_wrong"].values()),
        f"differs from `jax.grad` by {result('gradient_flow')['summary']['largest_difference_of_the_sum']:.1e}",
        f"squared error of {result('gradient_flow')['summary']['loss_of_a_guess']:.2f}",
    ]
    pages = ((README, in_readme), (PERFORMANCE, in_performance), (RESULTS, in_results), (TRAIN, in_train))
    for page, figures in pages:
        for figure in figures:
            assert figure in page, figure


def test_markdown_requires_rows_of_equal_length():
    assert markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    with pytest.raises(AssertionError):
        markdown(("a", "b"), [("1",)])


def test_committed_music_tables_are_built_from_the_results():
    found = record("polyphonic_music")
    committed = (ROOT / "experiments" / "results" / "polyphonic_music" / "tables.md").read_text("utf-8")
    assert music_report.table(found["results"], found["summary"]["baselines"]) == committed


def test_committed_benchmark_tables_are_built_from_the_results():
    def with_shapes(value):
        if isinstance(value, dict):
            return {key: Shape(*item) if key == "shape" else with_shapes(item) for key, item in value.items()}
        return [with_shapes(item) for item in value] if isinstance(value, list) else value

    committed = (ROOT / "experiments" / "results" / "benchmark" / "tables.md").read_text("utf-8")
    assert speed_report.tables(with_shapes(record("benchmark")["results"])) == committed
