"""python -m configs

Prints every config file with its arguments, which is the second half of configs/README.md.
"""

import importlib
import pathlib

from configs import common

FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
  """Returns the names of the config files."""
  texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}
  return [name for name, text in texts.items() if "\ndef get_config(" in text]


def arguments(module) -> list[tuple[str, str]]:
  """Returns (usage, meaning) of each argument of a config file."""
  try:
    module.get_config("help")
  except common.Help as help:
    return help.arguments
  raise ValueError(f"{module.__name__}: get_config does not read its argument by common.parse")


def listing() -> str:
  """Returns a section in Markdown for each config file: what it learns, and its arguments."""
  sections = []
  for name in names():
    module = importlib.import_module(f"configs.{name}")
    summary = module.__doc__.split("\n\n")[1].strip()
    lines = [
      f"- `{usage}`" + (f": {meaning}" if meaning else "") for usage, meaning in arguments(module)
    ]
    sections.append("\n".join([f"### {name}.py", summary, "", *lines]))
  return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
  print(listing(), end="")
