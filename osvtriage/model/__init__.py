"""The words of the project as plain data: events, findings, verdicts, errors.

Standard library only: gdb's own Python loads this package too.
"""
