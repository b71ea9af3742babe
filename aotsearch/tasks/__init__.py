"""What models are trained on, one file per kind. A task imports neither torch nor ray: it deals in numpy arrays.

A task has `sizes` (what the model must know), `measure` and `unit` (what it is judged by; lower is better), `prepare()` (bring the
data to this machine, once), `open()`, `batch(seed, step, size)`, `validation()` and `measures(loss)`.
"""
