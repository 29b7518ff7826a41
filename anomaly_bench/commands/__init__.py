"""The verbs of `bench`: the only room that reads the command line."""
