"""``python -m osvtriage``."""

from osvtriage.cli.main import entry

entry()
