"""Which files of this machine may be data: those under a root that the operator allows, and no others, for nobody.

The engine that reads them looks again, and follows no link on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finery_contracts.errors import Forbidden, InvalidRequest
from finery_contracts.sources import checked_path


def allowed_path(url: str, roots: Sequence[Path], *, param: str, folders: bool) -> Path:
    """The real path of ``file://…``; ``folders``: a folder will do, too.

    Raises:
        InvalidRequest: it is no path, or nothing lies there.
        Forbidden: ``path_not_allowed``; it lies under no allowed root, or a link leads out of it.
    """
    try:
        named = Path(checked_path(url).removeprefix("file://"))
    except ValueError as fault:
        raise InvalidRequest(f"{url}: {fault}", code="path_invalid", param=param) from fault
    allowed = [root.resolve() for root in roots]
    real = named.resolve()
    # The name is judged before anything is looked up, so that what lies elsewhere cannot be probed.
    spelt_inside = any(named.is_relative_to(root) for root in (*roots, *allowed))
    if not spelt_inside or not any(real.is_relative_to(root) for root in allowed):
        raise Forbidden(
            f"{url} lies under no allowed root; an operator names roots by FINERY_ALLOWED_ROOTS",
            code="path_not_allowed", param=param,
        )  # fmt: skip
    if not real.is_file() and not (folders and real.is_dir()):
        what = "file or folder" if folders else "file"
        raise InvalidRequest(f"{url}: there is no such {what}", code="path_not_found", param=param)
    return real
