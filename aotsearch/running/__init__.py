"""Study -> ledger: which trials are left, who trains them, and what is told meanwhile.

In: a study and a run folder. Out: a ledger without gaps, the view in MLflow, the report.
The way: runner (one start) -> continuing (whether the folder may go on) -> phases (what is left) -> cluster (Ray) or local (this process);
what they tell goes to the journal. search proposes, rungs stop early, status and progress tell how far it is, forecast what it will take,
timing how long the steps of each arm are.
Open `runner.py` first.
"""
