"""Data sets of rare classes: a spec, units of work, one worker or many (docs/datasets.md)."""
