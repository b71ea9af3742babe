"""Trial -> Record: one architecture trained under one seed at one rate.

In: a trial of a study, and the device settings it was granted. Out: a record, whatever happens: done, diverged, pruned or failed.
`trial` is everything around it, `train` the loop, `program` its steps (one model, or several seeds fused), `schedule` their rates,
`evaluation` the measures; `choice` finds out what is faster here, `timing` times models side by side; `device` has precision, memory and
determinism.
Open `trial.py` first.
"""
