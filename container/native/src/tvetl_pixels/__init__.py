"""Pillow's decoding, resizing and encoding in C, in ``_native``; that module is absent where there was no compiler."""
