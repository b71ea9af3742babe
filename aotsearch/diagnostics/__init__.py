"""Model, batch -> numbers per layer: what a trained model does inside.

In: a model, its task and the names of diagnostics. Out: for each of them a number per layer, or the loss without a part.
`catalogue` says what there is, without torch; `measures` are the formulas; `probe` runs the passes; `hints` are of untrained models.
Open `catalogue.py` first.
"""
