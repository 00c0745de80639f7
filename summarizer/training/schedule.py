"""Learning rate over steps: a pure function, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

from summarizer.config.schema import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """What optimizer.lr is multiplied by at optimizer step `step` (the first is 1) of `total_steps`.

    Rises linearly over the warm-up, whose last step has the full rate; then stays, or falls to `final_fraction`
    at the last step, along a line or half a cosine (Loshchilov & Hutter 2016, arXiv:1608.03983).
    """
    if step < schedule.warmup_steps:
        return step / schedule.warmup_steps
    if schedule.name == "constant":
        return 1.0
    span = max(total_steps - max(schedule.warmup_steps, 1), 1)
    done = min((step - max(schedule.warmup_steps, 1)) / span, 1.0)
    fall = done if schedule.name == "linear" else (1 - math.cos(math.pi * done)) / 2
    return 1.0 - fall * (1.0 - schedule.final_fraction)
