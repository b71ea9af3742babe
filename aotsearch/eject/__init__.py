"""An architecture as one readable PyTorch file of its own, by partial evaluation of the source of its parts."""
