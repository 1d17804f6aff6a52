"""What follows ":" in `--config configs/NAME.py:arg=value,...`, read alike by every config."""

import ast
import difflib
import types

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def parse(arg: str, **defaults) -> types.SimpleNamespace:
  """The arguments in `arg` ("size=big,small") over `defaults`, each of its default's type.

  A tuple as default lists the choices, the first being the default. A bare word sets a bool to
  True. A default of None takes any value. Values hold no comma.
  Raises ValueError, naming the nearest known word, for an unknown name or value.
  """
  choices = {name: value for name, value in defaults.items() if isinstance(value, tuple)}
  values = {name: choices[name][0] if name in choices else defaults[name] for name in defaults}
  seen = set()
  for item in filter(None, (part.strip() for part in arg.split(","))):
    name, equals, text = (part.strip() for part in item.partition("="))
    if name not in defaults:
      raise ValueError(_unknown(name, defaults, choices))
    if name in seen:
      raise ValueError(f"argument {name} is given twice in {arg!r}")
    seen.add(name)
    if not equals and not isinstance(values[name], bool):
      raise ValueError(f"argument {name} needs a value: {name}={values[name]}")
    value = _typed(name, text if equals else "true", values[name])
    if name in choices and value not in choices[name]:
      known = ", ".join(map(str, choices[name]))
      raise ValueError(f"argument {name}={text}: {name} is one of {known}{_near(text, known)}")
    values[name] = value
  return types.SimpleNamespace(**values)


def _unknown(name, defaults, choices):
  for owner, words in choices.items():
    if name in map(str, words):
      return f"no argument is called {name}; did you mean {owner}={name}?"
  known = ", ".join(defaults)
  return f"no argument is called {name}{_near(name, known)}; there are: {known or 'none'}"


def _near(word, known):
  near = difflib.get_close_matches(word, known.split(", "), 1, cutoff=0.5)
  return f"; did you mean {near[0]}?" if near else ""


def _typed(name, text, default):
  kind = type(default)
  try:
    if kind is bool:
      return {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}[text.lower()]
    if kind in (int, float, str):
      return kind(text)
  except (KeyError, ValueError):
    raise ValueError(f"argument {name}={text}: {name} is of type {kind.__name__}") from None
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
