"""How Hydra finds `hydra/launcher=fused`."""
