"""Study -> ledger: which trials are left, who trains them, and what is told meanwhile.

In: a study and a run folder. Out: a ledger without gaps, the view in MLflow, the report.
The way: runner (what is left) -> schedule (Ray or this process) -> training; search proposes, rungs stop early, progress tells.
Open `runner.py` first.
"""
