"""A gdb process: the MI session that drives it, and the modules that it loads itself."""
