"""What a finished run is good for: its base and adapter opened again, and articles summarised by them."""
