"""From YAML to typed specs; every mistake reported at once, before any weight loads."""
