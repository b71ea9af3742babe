"""Ledger -> report: one HTML page, Markdown, LaTeX, CSV and JSON.

In: a run folder. Out: files in its `report` folder.
The way: data (study, records and analysis, read once) -> contents (the rows of every table) and figures -> page, latex, summary.
Open `report.py` first.
"""
