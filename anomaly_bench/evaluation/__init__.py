"""`bench eval`: measure without a model, from a run's stored maps or from those of any other program."""
