"""Products written in C for the processor at hand, where torch's own leave its memory waiting."""
