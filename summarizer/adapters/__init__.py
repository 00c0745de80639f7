"""What is trained: the low-rank pairs beside frozen layers, for a whole group of trials at once."""
