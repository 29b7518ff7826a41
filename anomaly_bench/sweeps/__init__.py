"""Many runs: planned, then launched where they can run."""
