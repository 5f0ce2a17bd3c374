"""A QEMU process: its command line, accelerator, console, control socket and supervisor."""
