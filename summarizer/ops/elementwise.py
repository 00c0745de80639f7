"""Stand-in until the merge."""
from summarizer.ops import between, kernel_graph
def add(x, added):
    if kernel_graph.is_recording(): return between.add_(x, added)
    return x + added
