"""Architecture -> one readable PyTorch file that imports torch alone; of a trained trial its weights too.

In: an architecture, or a trial of a run folder. Out: text that is the source of its parts with the options put in, proved to give the
same numbers. The way: program (how a model was made) -> fold (what is known is put in) -> text and file -> trained.
Open `file.py` first.
"""
