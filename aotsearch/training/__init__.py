"""Trial -> Record: one architecture trained under one seed at one rate.

In: a trial of a study, and the device settings it was granted. Out: a record, whatever happens: done, diverged, pruned or failed.
`train` is the loop and the evaluations; `trial` everything around it; `device` precision, memory and determinism; `timing` steps of several
models side by side.
Open `trial.py` first.
"""
