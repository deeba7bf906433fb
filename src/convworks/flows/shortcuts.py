"""Probes, feature vectors and advice by plain arguments: what the Python door offers of them."""

from __future__ import annotations

from pathlib import Path

from convworks import environment
from convworks.flows.advise import Advice
from convworks.flows.advise import advise as advise_flow
from convworks.flows.prepare import DataRequest
from convworks.flows.probe import (
    IMAGES,
    FeaturesRequest,
    FeatureVectors,
    ProbeReport,
    ProbeRequest,
    feature_vectors,
)
from convworks.flows.probe import probe as probe_flow


def probe(
    model: str | Path, data: str | Path, *, images: int = IMAGES, cache: str | Path | None = None
) -> ProbeReport:
    """A linear classifier on the features of every stage of a model, as `convworks probe`."""
    return probe_flow(ProbeRequest(model=Path(model), data=_request(data, cache), images=images))


def features(
    model: str | Path, data: str | Path, *, split: str = "all", cache: str | Path | None = None
) -> FeatureVectors:
    """What the last stage of a model sees of every image, as `convworks features`."""
    return feature_vectors(FeaturesRequest(model=Path(model), data=_request(data, cache), split=split))


def advise(data: str | Path, *, cache: str | Path | None = None) -> tuple[Advice, ...]:
    """Which model, size and training suit these images, and by which rule, as `convworks advise`."""
    return advise_flow(_request(data, cache))[1]


def _request(location: str | Path, cache: str | Path | None) -> DataRequest:
    """Data as the command line would find it: its folders come from the environment."""
    return DataRequest(
        location=str(location),
        cache=environment.cache_folder(None if cache is None else Path(cache)),
        data_root=environment.data_root(None),
        offline=environment.is_offline(False),
    )
