"""Architecture -> torch.nn.Module: the only folder in which words become modules.

In: an `Architecture`. Out: a `Model`, its initial values drawn by parameter name and seed; what it costs; weights for other libraries.
Every word of a model is a class in `parts/`, one file per part of speech.
Open `model.py` first, then `parts/attention.py`.
"""
