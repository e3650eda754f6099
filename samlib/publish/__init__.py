"""Notebooks, book, tables and README, made from records."""

__all__ = ["book", "notebooks", "pages", "readme", "tables"]
