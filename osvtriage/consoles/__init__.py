"""Parsers of what guests print. They start no guest; recorded consoles are their fixtures."""
