"""Mistakes of the person who started the program, told in words instead of a traceback."""


class UserError(Exception):
  """Says what is wrong, where (file, line, key) and what to do; `main` prints it and exits 2."""
