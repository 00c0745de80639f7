"""Which low-rank adapter, at which dimension and learning rate, makes a frozen language model summarize best?"""

__version__ = "0.2.0.dev0"
