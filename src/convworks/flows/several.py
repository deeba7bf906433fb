"""Several models from Python: `cw.Ensemble` and `cw.compare`.

`cw.Ensemble.load(["runs/a", "runs/b"]).predict_proba(images)` answers as a model does;
`cw.Ensemble.make("runs/photos-fastnet-01", weights="fitted", out="models/ab")` fits, compares and saves;
`cw.compare("runs/a", "runs/b").pairs[0].difference` is a paired difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convworks.environment import cache_folder, data_root, is_offline
from convworks.flows.compare import Comparison, compare_runs
from convworks.flows.ensemble import EnsembleRequest, EnsembleResult, make_ensemble
from convworks.flows.ensemble_bundle import together
from convworks.flows.ensemble_parts import expand
from convworks.flows.predict import Predictor
from convworks.flows.prepare import DataRequest

Paths = Sequence[str | Path]


class Ensemble:
    """Several models as one. A group of `train --seeds 5` stands for its runs."""

    @staticmethod
    def load(paths: Paths, *, weights: Sequence[float] | None = None) -> Predictor:
        """An average that answers as a model does; members keep their own preprocessing.

        Raises U263 (other classes), U273 (no model), U251 (weights that do not fit) and A41x.
        """
        return Predictor(together(expand([Path(path) for path in paths]), weights=weights))

    @staticmethod
    def make(
        *paths: str | Path,
        data: str | Path | None = None,
        weights: str = "uniform",
        out: str | Path | None = None,
        cache: str | Path | None = None,
        **options: Any,
    ) -> EnsembleResult:
        """Combine, compare on images that no member has learnt and, with `out`, save as a model.

        `options` are those of EnsembleRequest: split, fit, samples, protocol, fusion. Raises as
        `make_ensemble` does.
        """
        where = cache_folder(None if cache is None else Path(cache))
        request = EnsembleRequest(
            members=tuple(Path(path) for path in paths),
            cache=where,
            data=None if data is None else _data(data, where),
            offline=is_offline(False),
            method=weights,
            out=None if out is None else Path(out),
            **options,
        )
        return make_ensemble(request)


def compare(*runs: str | Path, split: str | None = None) -> Comparison:
    """Settings, scores and paired differences of two runs or more. Raises U273, U276 and A41x."""
    return compare_runs(expand([Path(run) for run in runs]), split=split)


def _data(location: str | Path, cache: Path) -> DataRequest:
    return DataRequest(
        location=str(location), cache=cache, data_root=data_root(None), offline=is_offline(False)
    )
