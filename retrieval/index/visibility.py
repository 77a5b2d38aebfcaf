"""Which rows of one generation a caller's view may search, less deleted documents; cached."""

import threading
from collections import OrderedDict

import numpy as np

from retrieval.index.fields import DocumentTable
from retrieval.index.filters import View
from retrieval.index.selection import Selection
from retrieval.types import Mask

MOST_VIEWS = 64
"""Selections kept; one of 100,000 passages takes 0.1 MB."""


class Visibility:
    """The selection of rows for each view; may be asked from any thread."""

    def __init__(self, table: DocumentTable) -> None:
        self._table = table
        self._numbers = table.numbers  # made here, off the loop: a delete comes on it
        self._state = _State(frozenset(), None)
        self._lock = threading.Lock()

    @property
    def hidden(self) -> frozenset[str]:
        return self._state.hidden

    def hide(self, doc_ids: frozenset[str]) -> None:
        """Searches that begin from now on return no passage of these documents."""
        with self._lock:
            if doc_ids != self._state.hidden:
                self._state = _State(doc_ids, self._shown(doc_ids))

    def selection(self, view: View) -> Selection | None:
        """The rows that the view sees; None where it sees them all."""
        state = self._state
        is_open = view.tenant is None and view.all_groups and view.filters is None
        if is_open and state.shown is None:
            return None
        key = view.key()
        with self._lock:
            if key in state.selections:
                state.selections.move_to_end(key)
                return state.selections[key]
        # Outside the lock: two threads may make the same one, none waits for another's.
        selection = self._select(view, state.shown)
        with self._lock:
            state.selections[key] = selection
            if len(state.selections) > MOST_VIEWS:
                state.selections.popitem(last=False)
        return selection

    def _select(self, view: View, shown: Mask | None) -> Selection | None:
        documents = self._table.admitted(view)
        if shown is not None:
            documents &= shown
        return None if documents.all() else Selection(self._table.to_rows(documents))

    def _shown(self, hidden: frozenset[str]) -> Mask | None:
        """(documents,); None where none of those to hide is in this generation."""
        numbers = [n for doc_id in hidden if (n := self._numbers.get(doc_id)) is not None]
        if not numbers:
            return None
        shown = np.ones(len(self._table), dtype=np.bool_)
        shown[numbers] = False
        return shown


class _State:
    """What is hidden and the selections made with it, replaced together.

    A selection made meanwhile lands in the state it was made from, and is gone with it.
    """

    def __init__(self, hidden: frozenset[str], shown: Mask | None) -> None:
        self.hidden = hidden
        self.shown = shown
        self.selections: OrderedDict[str, Selection | None] = OrderedDict()
