"""What runs inside gdb's own Python: standard library, `gdb`, and osvtriage's plain packages."""

# What the lines begin with that the modules here print for osvtriage on gdb's console stream.
EVENT_PREFIX = "osvtriage-event "
FAILURE_PREFIX = "osvtriage-failure "
