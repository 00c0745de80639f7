"""Where Hydra finds the launcher `ray`."""
