"""YAML -> Space -> Architecture: what a study may vary, without torch.

In: the `grammar` section of a study file, with the place of every value, and the source text of the library's words.
Out: a `Space` (count, sample, enumerate, neighbours) and `Architecture`s: decided, frozen, with a canonical form and a digest.
The way: words -> signatures -> library; parser -> forms -> derivation -> architecture; laws and constraint refuse, counting counts.
Open `space.py` first, then `architecture.py`.
"""
