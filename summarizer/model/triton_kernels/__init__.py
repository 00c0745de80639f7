"""Kernels in Triton for a card, as C's are for a processor; triton is imported by the first that runs."""
