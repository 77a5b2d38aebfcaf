"""The evaluation data and the model that it is measured with."""

from tests.cache.conftest import minilm, pair_files

__all__ = ["minilm", "pair_files"]
