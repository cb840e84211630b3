"""Own weights in an object store become a model that the real engines have checked; a hostile folder becomes none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from finery.client import Finery
from finery.errors import PermissionDenied
from finery_contracts.jobs import ImportOutput, ValidateOutput
from tests.bench.house import House
from tests.model_lake import KEYS, Lake, a_lake, model_files

FILES = model_files()


@pytest.fixture
def lake() -> Iterator[Lake]:
    with a_lake() as made:
        yield made


def test_a_folder_of_an_object_store_becomes_a_model_that_lives(up: House, lake: Lake) -> None:
    place = lake.put("models/tiny", FILES)
    hostile = lake.put("models/hostile", FILES | {"vocab.txt": b"\x80\x04cposix\nsystem\n."})
    with Finery(up.ready["url"], up.ready["api_key"]) as finery:
        finery.connections.add_s3("lake", endpoint=lake.url, **KEYS)
        with pytest.raises(PermissionDenied) as refused:
            finery.models.create("stored", url=place, connection="lake")
        finery.grants.give("read", "s3://lake/models")
        made = finery.models.create("stored", url=place, connection="lake")
        bad = finery.models.create("hostile", url=hostile)
        imported, failed = finery.tasks.wait(made.tasks[0]), finery.tasks.wait(bad.tasks[0], check=False)
        checked = finery.tasks.wait(imported.result["validation"])
        ready, invalid = finery.models.get("stored"), finery.models.get("hostile")

    assert (refused.value.code, refused.value.details[0]["permission"]) == ("grant_missing", f"read {place}")
    assert isinstance(imported.output, ImportOutput)
    assert imported.output.fetched is not None
    assert imported.output.fetched.size_bytes == sum(map(len, FILES.values()))
    assert isinstance(checked.output, ValidateOutput), checked.error
    assert [found for found in checked.output.findings if found.severity == "error"] == []
    assert (ready.state, ready.parameters, ready.size_bytes > 0) == (
        "ready",
        320 * 32 + 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32),
        True,
    )
    assert ready.origin is not None
    assert (ready.origin.url, ready.origin.connection) == (place, "lake")
    assert (failed.state, invalid.state) == ("failed", "invalid")
    assert failed.error is not None
    assert failed.error.code == "pickled_weights"
    assert "vocab.txt" in {found.where for found in invalid.findings}
