"""Rewrites the tables of the READMEs and of the documentation: `python -m experiments.summary_tables`."""

from experiments.summary_tables import PAGES, with_tables
from experiments.summary_tables.formatting import ROOT

if __name__ == "__main__":
    for path in PAGES:
        path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
        print(f"updated {path.relative_to(ROOT)}")
