"""A report that is written again is the one that training wrote; without the images it has no pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

from convworks.flows.report import rewrite_report, write_comparison
from tests.flows.helpers import train_all, write_images


def test_written_again_it_is_the_same_page(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", each=12)
    train_all(tmp_path, folder, epochs=1)
    run = tmp_path / "runs" / "run"
    first = (run / "report.html").read_text()
    assert "data:image/" in first
    path, missing = rewrite_report(run, cache=tmp_path / "cache")
    assert missing == ""
    assert path.read_text().count("data:image/") == first.count("data:image/")
    shutil.rmtree(folder)
    path, missing = rewrite_report(run, cache=tmp_path / "cache")
    assert "photos" in missing
    again = path.read_text()
    assert again.count("data:image/") == again.count('<figure class="filters">'), (
        "only the model's own picture"
    )
    assert "<h2" in path.read_text()


def test_of_private_data_no_image_is_shown(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", each=12)
    train_all(tmp_path, folder, epochs=1)
    run = tmp_path / "runs" / "run"
    path, missing = rewrite_report(run, cache=tmp_path / "cache", images=False)
    page = path.read_text()
    assert missing == ""
    assert page.count("data:image/") == page.count('<figure class="filters">')
    both, _ = write_comparison([run, run], tmp_path / "both.html", cache=tmp_path / "cache", images=False)
    assert "data:image/" not in both.read_text()
