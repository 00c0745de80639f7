"""From YAML to one typed tree of settings; every mistake reported at once, before any weight loads."""
