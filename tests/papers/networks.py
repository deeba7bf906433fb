"""The facts of every registered network: those of facts.py and of one module for each family beside it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.papers.facts import Network

_FAMILIES = sorted(
    p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", "networks")
)

NETWORKS: dict[str, Network] = {}
for _family in _FAMILIES:
    for _name, _fact in getattr(import_module(f"tests.papers.{_family}"), "NETWORKS", {}).items():
        if _name in NETWORKS:
            raise ValueError(f"two modules have facts of {_name}")
        NETWORKS[_name] = _fact
