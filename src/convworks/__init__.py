"""convworks: from a folder of labelled images to an accurate, explained, deployable convolutional network.

Names are looked up when they are used, so that `import convworks` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convworks.errors import ConvworksError

if TYPE_CHECKING:
    from convworks.api import (
        Data,
        Ensemble,
        TrainedRun,
        advise,
        check,
        compare,
        features,
        fit,
        load,
        load_int8,
        model_card,
        plan,
        probe,
        published,
        recipe,
        resume,
        train,
        train_many,
        write_report,
    )

__all__ = [
    "ConvworksError",
    "Data",
    "Ensemble",
    "TrainedRun",
    "advise",
    "check",
    "compare",
    "features",
    "find_lr",
    "fit",
    "load",
    "load_int8",
    "model_card",
    "plan",
    "probe",
    "published",
    "recipe",
    "resume",
    "train",
    "train_many",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from convworks.threads import spin_briefly

        spin_briefly()
        import convworks.api

        return getattr(convworks.api, name)
    raise AttributeError(f"module 'convworks' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
