"""The similarity above which two questions may share an answer, by embedding model."""

SHIPPED = {"sentence-transformers/all-MiniLM-L6-v2": 0.92}
"""Model id → threshold; a model that is not here has none until it is calibrated."""


def threshold_for(model_id: str, setting: float | None) -> float | None:
    """What is set wins, else what this model was calibrated to; None: exact layer alone."""
    return setting if setting is not None else SHIPPED.get(model_id)
