"""Published architectures, with the parameter names of their checkpoints where those are PyTorch."""
