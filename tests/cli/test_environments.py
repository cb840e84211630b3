"""Engine environments take this very Finery: a copy of what is installed, never what an index has under the name."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from pathlib import Path

from finery.environments import copy_distribution


def test_an_installed_finery_is_copied_without_its_programs_and_caches(tmp_path: Path) -> None:
    site, target = tmp_path / "lib" / "site-packages", tmp_path / "engines" / "site-packages"
    kept = ("finery_ml/job.py", "finery_kit/locks/ml.txt", "finery-0.1.0.dist-info/METADATA")
    left = ("finery_ml/__pycache__/job.cpython-311.pyc", "../../bin/finery")
    for name in (*kept, *left):
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    record = "".join(f"{name},,\n" for name in (*kept, *left, "finery_ml/gone.py"))
    (site / "finery-0.1.0.dist-info" / "RECORD").write_text(record)

    copy_distribution(PathDistribution(site / "finery-0.1.0.dist-info"), target)

    copied = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert copied == set(kept)
    assert (target / kept[0]).read_text() == kept[0]
