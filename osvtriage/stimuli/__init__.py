"""Named actions that change a guest: what a recipe can ask for, and what the record says of it.

A module here says what is done and in which order, as data, and in words for the record's
``interventions``. What touches the guest is in :mod:`osvtriage.gdb.inside`.
"""
