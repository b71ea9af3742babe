"""Tables of runs that were trained elsewhere -> verdicts, as of our own.

In: CSV (also exports of W&B and TensorBoard), JSON lines, Parquet, an MLflow experiment, run folders. Out: an `Analysis`, its doubts, a report.
The way: sources -> table (cells with their places) -> runs (arm, seed, value) -> contrasts -> doubts -> document; `across` compares folders.
Open `verdict.py` first.
"""
