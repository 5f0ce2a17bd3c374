"""What is known of guest systems. Standard library only: gdb's own Python loads it too."""
