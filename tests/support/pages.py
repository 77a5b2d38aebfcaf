"""The documents of the small index that most tests search."""

PAGES = {
    "france.md": "# France\n\nParis is the capital of France. It lies on the Seine.",
    "peru.md": "# Peru\n\nLima is the capital of Peru. The Incas built Machu Picchu.",
    "tea.txt": "Green tea is brewed with water of eighty degrees for two minutes.",
}
