"""Which prompt is next: domains by schedule, difficulty, levels, less that is synthetic at long windows.

    ledger (evidence, line of checkpoints) --> state --> pool --> draw by hash of (seed, position)

All of it is a function of the ledger and the run file: a buffer that starts again, or a run that goes back,
reads the evidence of its line of checkpoints and stands where it stood.
"""
