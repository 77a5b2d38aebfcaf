"""What a caller may see and asked to see, in the one form that retrieval and library take.

The one place where a key becomes a view: every route that shows documents, or what was written
from them, goes through here.
"""

from collections.abc import Mapping

from api.admission.caller import Caller
from api.errors import Invalid
from retrieval.index.filters import View, parse_filters


def view_of(caller: Caller, filters: Mapping[str, object] | None = None) -> View:
    """Raises Invalid for filters that are none."""
    try:
        parsed = parse_filters(filters) if filters else None
    except ValueError as exc:
        raise Invalid(str(exc)) from exc
    return View(
        tenant=caller.tenant,
        groups=tuple(sorted(set(caller.groups))),
        all_groups="admin" in caller.scopes,
        filters=parsed,
    )
