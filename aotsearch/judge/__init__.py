"""Tables of runs that were trained elsewhere -> verdicts, as of our own.

In: CSV (also exports of W&B and TensorBoard), JSON lines, Parquet, an MLflow experiment, run folders.
Out: an `Analysis` with its doubts, and a report.
The way: sources -> table (cells with their places) -> runs (arm, seed, value) -> contrasts -> doubts -> document, page. `across` compares
run folders.
Open `verdict.py` first.
"""
