"""Translators: one machine translation engine per file; the engine around them is clir_cli.text.translation."""
