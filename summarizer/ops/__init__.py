"""Operations of a model: attention, matrix products, norms, activations, rotations, each in one file.

A file holds an operation's forms side by side behind one signature: torch's own operators, which serve everywhere;
C for a processor with AVX-512 (`csrc/`, built by `native.py`); Triton for a GPU (`*_triton.py`, imported only where
it runs). `native.available` says whether a source in C runs on this machine, `supports` of a file whether its form
in C takes what it is given, and `supports_on_gpu` whether that in Triton does. Operations called while
`kernel_graph.recorded` is in effect are noted in a graph instead of computed.
"""
