"""The runs of one `-m` command together: groups, early stopping, the record of what came of each."""
