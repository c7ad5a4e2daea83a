"""Texts: languages, sentences, terms, translation, passages."""
