"""The commands of a session, ``ot …``: one file for each group of them."""
