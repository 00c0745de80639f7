"""Operations of a model: attention, matrix products, norms, activations, rotations, each in one file.

A file holds an operation's forms side by side behind one signature: torch's own operators, which serve everywhere;
C for a processor with AVX-512 (`csrc/`, built by `native.py`); Triton for a GPU (`*_triton.py`, imported only where
it runs). `supports` or `available` of a file says whether the form in C takes what it is given. Operations called
while `kernel_graph.recorded` is in effect are noted in a graph instead of computed.
"""
