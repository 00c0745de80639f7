"""The one training loop, which trains a group of trials; a run alone is a group of one."""
