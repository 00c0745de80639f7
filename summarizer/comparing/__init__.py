"""Runs beside each other: read from any folders, told apart, ranked only where their scores can be."""
