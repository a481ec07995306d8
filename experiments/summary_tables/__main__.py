"""Rewrites the tables of both READMEs: `python -m experiments.summary_tables`."""

from experiments.summary_tables import READMES, with_tables
from experiments.summary_tables.formatting import ROOT

if __name__ == "__main__":
    for path in READMES:
        path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
        print(f"updated {path.relative_to(ROOT)}")
