"""A guest's memory in a file, as QEMU's ``dump-guest-memory`` writes it: an ELF core (vmcore)."""
