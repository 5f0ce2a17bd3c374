"""What runs inside gdb's own Python: standard library, `gdb`, and osvtriage's plain packages."""
