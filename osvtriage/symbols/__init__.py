"""ELF files, disassembly and structure offsets, turned into plain data.

The only package that imports pyelftools and capstone.
"""
