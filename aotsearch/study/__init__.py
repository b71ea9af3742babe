"""YAML -> Study: space, task, settings, and the arms that are compared.

In: a study file and overrides (`--set`). Out: a `Study`, checked as a whole, every error at its place; its arms, contrasts and seeds.
The way: loading (sections) -> settings -> study -> designs (which arms, compared for what) -> equalise (arms of one size).
Open `study.py` first.
"""
