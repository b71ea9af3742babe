"""Study -> terminal: an arm drawn for people, with what it costs and where it differs.

In: an arm of a study. Out: a tree of its parts with formulas, shapes and costs.
Open `show.py` first.
"""
