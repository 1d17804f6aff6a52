"""python -m configs

Writes the list of config files and their arguments in configs/README.md.
"""

import argparse
import importlib
import pathlib

from configs import common

FOLDER = pathlib.Path(__file__).parent
README = FOLDER / "README.md"
TITLE = "## The files\n"  # what follows the line after it is written here


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


def updated(readme: str) -> str:
  """Returns the text of the README with the list as it is now."""
  head, title, rest = readme.partition(TITLE)
  intro = rest.strip().partition("\n")[0]
  return f"{head}{title}\n{intro}\n\n{listing()}"


if __name__ == "__main__":
  argparse.ArgumentParser(prog="python -m configs", description=__doc__).parse_args()
  README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
