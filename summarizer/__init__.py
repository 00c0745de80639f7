"""Which low-rank adapter, at which dimension and learning rate, makes a frozen language model summarise best?"""

__version__ = "0.1.0"
