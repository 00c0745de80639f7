"""The runs of one `-m` command together: groups, successive halving, the record of what came of each."""
