"""The rows that a search may return, in the forms that FAISS and BM25 take."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from retrieval.types import Mask, Rows

FEW = 2_000
FEW_SHARE = 0.02
"""So few rows are compared one by one: faster than a search that passes over the others, and it
finds them all, however an index has spread them."""


class Selection:
    """A row mask (n,) and the forms of it that searches take; never changed once made."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.size = int(mask.sum())

    @property
    def share(self) -> float:
        return self.size / max(1, len(self.mask))

    @property
    def is_few(self) -> bool:
        return self.size < FEW or self.share <= FEW_SHARE

    @cached_property
    def rows(self) -> Rows:
        return np.flatnonzero(self.mask)

    @cached_property
    def bits(self) -> npt.NDArray[np.uint8]:
        """One bit a row, lowest first."""
        return np.packbits(self.mask, bitorder="little")
