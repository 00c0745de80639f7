"""The kinds of adapters that conf/adapter has, each as a tiny base can carry it."""

from __future__ import annotations

from functools import cache

from training_groups import spec_of

from summarizer.adapters.protocol import Adapter
from summarizer.config.paths import conf_folder

OPTIONS = [
    "lora adapter.dim={default:2,*.1.*:5,head:1}",
    "lora adapter.dim={default:2,*.1.*:5,head:1} adapter.alpha=null",
    "dora adapter.use_rslora=true adapter.init_lora_weights=olora adapter.alpha=1.0",
    "ia3 adapter.feedforward_modules=['*.1.*']",
    "oft adapter.use_cayley_neumann=false",
    "oft adapter.num_cayley_neumann_terms=3 adapter.oft_block_size=20",
    "oft adapter.r=4 adapter.oft_block_size=null",
]
"""Those that make another computation of a kind."""
KINDS = sorted([*OPTIONS, *(path.stem for path in (conf_folder() / "adapter").glob("*.yaml"))])
DIM = 3


@cache
def adapter_of(kind: str, *more: str) -> Adapter:
    """As `adapter=KIND` composes it."""
    return spec_of(f"adapter={kind}", *more).adapter


def small(kind: str, *more: str) -> Adapter:
    """At a dim that these bases can have, where the kind has one, and at a scale that is not 1."""
    name, *own = kind.split()
    fields = adapter_of(name).model_fields_set
    sizes = {"dim": DIM, "alpha": 6.0, "oft_block_size": 8, "d_initial": 1.0}
    options = [f"adapter.{field}={size}" for field, size in sizes.items() if field in fields]
    return adapter_of(name, *options, *own, *more)
