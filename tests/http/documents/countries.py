"""Two short documents."""

FRANCE = {"id": "france", "title": "France", "text": "Paris is the capital of France."}
PERU = {"id": "peru", "title": "Peru", "text": "Lima is the capital of Peru."}
