"""What runs inside gdb's own Python: standard library, `gdb`, and osvtriage's plain packages."""

# What the lines begin with that the modules here print for osvtriage on gdb's console stream.
EVENT_PREFIX = "osvtriage-event "
FAILURE_PREFIX = "osvtriage-failure "
PINPOINT_PREFIX = "osvtriage-pinpoint "
ANSWER_PREFIX = "osvtriage-answer "
REFUSAL_PREFIX = "osvtriage-refusal "
STACKS_PREFIX = "osvtriage-stacks "
PROCESS_PREFIX = "osvtriage-process "

# Why the guest stays stopped: to be stepped through a span, for good, or because the process that
# the plugin is to watch was found.
STEP = "step"
FATAL = "fatal"
FOUND = "found"
