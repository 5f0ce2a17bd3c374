"""Probes that do not stop the guest: a plugin for QEMU's TCG (``probes.c``) and what drives it.

``build`` compiles it and says which QEMU can load it, ``table`` is what it is told, ``shared`` the
file through which it tells what it saw.
"""
