"""OpenVINO itself, imported without its telemetry.

`import openvino` alone tells Google Analytics of each use, unless a file in the home folder says no
(openvino/tools/ovc/__init__.py, 2026.4); where its package `openvino_telemetry` cannot be had, it goes without.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

TELEMETRY = "openvino_telemetry"


def _imported() -> tuple[Any, Any]:
    is_new = TELEMETRY not in sys.modules
    if is_new:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # which makes its import fail
    try:
        return importlib.import_module("openvino"), importlib.import_module("openvino.opset15")
    finally:
        if is_new:
            del sys.modules[TELEMETRY]


ov, ops = _imported()
"""The package, and the operators of its opset 15."""
