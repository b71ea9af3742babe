"""Ledger -> MLflow: a view of a run for people, which can be made again at any time.

In: a study, its records and its report. Out: runs, metrics, tags and artifacts in an MLflow store.
`wording` names and describes arms as everybody sees them; `store` decides what is written, `client` writes it; `view` is what a run and
the command `ui` use; `layout` is how the UI's pages are laid out; `glance` reads without mlflow whether all is there; `models` logs a
trained model where one is asked for.
Open `view.py` first.
"""
