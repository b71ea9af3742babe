"""An architecture, or a trained trial, as one readable PyTorch file that imports torch alone.

In: an architecture (`file.eject`), or a run folder with the arm and seed of a trial (`trained.write`). Out: text, and weights beside it.
`record` notes how a model's modules are made, `program` and `fold` put what is known into the source of their classes, `file` writes them
with the model around them and proves that the numbers are the same, `prose` says what is said in words. Open `file` first.
"""
