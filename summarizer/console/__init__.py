"""Progress, the live table of trials, and safe printing at the terminal."""
