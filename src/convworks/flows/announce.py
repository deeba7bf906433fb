"""What a training says before it begins: the data as understood, and what is about to be done."""

from __future__ import annotations

import platform
from collections import Counter
from importlib.metadata import version

from convworks.flows.events import Found, Will
from convworks.flows.plan import differences_of
from convworks.flows.prepare import Prepared
from convworks.flows.session import Session
from convworks.machine import processor_name
from convworks.recipes.defaults import compliance_of
from convworks.recipes.recipe import leaves
from convworks.recipes.resolve import Resolved
from convworks.training.planner import usable_cpus


def environment() -> dict[str, str]:
    """What decides bits besides recipe, data and plan."""
    packages = {name: version(name) for name in ("convworks", "torch", "numpy", "pillow", "simplejpeg")}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "processors": str(usable_cpus()),
        **packages,
    }


def what_was_found(prepared: Prepared) -> Found:
    """The data, as understood."""
    manifest, dataset = prepared.dataset.manifest, prepared.dataset
    kept = [sample for sample in manifest.samples if sample.verdict == "ok"]
    counts = Counter(sample.label for sample in kept)
    return Found(
        name=manifest.name,
        location=manifest.location,
        layout=manifest.layout,
        images=len(kept),
        classes=manifest.classes,
        splits={s: n for s in ("train", "val", "test") if (n := len(dataset.split_rows(s)))},
        split_rule=manifest.split_rule,
        counts={name: counts[name] for name in manifest.classes},
        left_out=tuple((s.path, s.verdict) for s in manifest.samples if s.verdict != "ok"),
        ignored=len(manifest.ignored),
        warnings=(*manifest.warnings, *dataset.notices),
        manifest=manifest.sha256,
        seconds=prepared.seconds,
    )


def what_will_be_done(session: Session, resolved: Resolved, *, resumed: bool) -> Will:
    """The training, before its first step or, where it is `resumed`, its next one."""
    geometry, plan, recipe = session.prepared.dataset.geometry, session.plan, session.recipe
    values = dict(leaves(recipe))
    shown = {
        k: (value, resolved.sources[k])
        for k, value in values.items()
        if resolved.sources.get(k, "default") != "default"
    }
    return Will(
        run=session.run.path,
        model=recipe.model,
        parameters=sum(p.numel() for p in session.network.parameters()),
        input=(geometry.channels, geometry.height, geometry.width),
        epochs=recipe.epochs,
        batch=recipe.batch,
        steps_per_epoch=session.loader.steps,
        device=plan.device,
        plan=plan.lines(),
        seconds_per_epoch=session.loader.steps * recipe.batch / max(plan.images_per_second, 1e-9),
        settings=shown,
        compliance=compliance_of(resolved),
        resumed_at=(session.position.epoch + 1, session.position.batch + 1) if resumed else None,
        exact=_exactness(session) if resumed else "",
    )


def _exactness(session: Session) -> str:
    """'exact', or what is different from where the run began."""
    before, now = session.run.record().get("environment", {}), environment()
    changed = [
        f"{key} {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value
    ]
    changed += differences_of(session.plan)
    overrides = session.run.record().get("overrides", [])
    changed += [f"changed on the way: {', '.join(overrides)}"] if overrides else []
    return "approximate: " + "; ".join(changed) if changed else "exact"
