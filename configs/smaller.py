"""Defines the arguments of configs for smaller models: a teacher, and the layers to start from."""

ARGUMENTS = dict(teacher="", layers="")  # of a config with an encoder or a decoder
OF_BOTH = ARGUMENTS | dict(decoder_layers="")  # with an encoder and a decoder


def start(arg) -> dict:
  """Returns the settings of `init_from` that the arguments `layers` and `decoder_layers` give."""
  chosen = {}
  for name in ("layers", "decoder_layers"):
    if text := str(vars(arg).get(name, "")):
      if not arg.init:
        raise ValueError(f"{name}={text} names layers of init: give init=RUN or init=hf:DIR too")
      if not all(word.isdecimal() for word in text.split("+")):
        raise ValueError(f"{name}={text}: write numbers of layers with + between: 0+2+5")
      key = "encoder_layers" if name == "layers" else name
      chosen[key] = tuple(map(int, text.split("+")))
  return chosen


def distill(arg) -> dict:
  """Returns the section `distill` of a run with the argument `teacher`, else nothing."""
  teacher = vars(arg).get("teacher", "")
  return dict(distill=dict(teacher=teacher)) if teacher else {}
