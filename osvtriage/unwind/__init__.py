"""Backtraces that cross exception entries. Standard library only: it also runs inside gdb."""
