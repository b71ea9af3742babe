"""Records -> verdicts: from the ledger alone, without torch.

In: the ledger of a run folder: what was declared, and a record per trial. Out: an `Analysis`: contrasts with intervals and verdicts.
The way: ledger -> declaration (which record belongs to which arm) -> tables -> pairs -> statistics -> verdicts -> analysis -> answer;
`speed` tells beside them how long each arm's steps take.
Open `analysis.py` first, then `verdicts.py` and `statistics.py`.
"""
