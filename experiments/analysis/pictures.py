"""Draws attention weights as a picture and as a page, for analysis/attention.py."""

import base64
import json
import pathlib
import warnings
from typing import NamedTuple

import numpy as np

from train.common.errors import UserError
from train.common.files import write_atomically

TEMPLATE = pathlib.Path(__file__).with_name("attention.html")
SCRIPT = TEMPLATE.with_suffix(".js")
STEPS = 65535  # a page stores weights as whole numbers of 16 bits
COLOURS = ("#ffffff", "#bcd6f6", "#5a9be6", "#1f5fae", "#0a2a57")
FRAME = "#eb6834"
# For characters that matplotlib's own font lacks; those that are installed are tried in turn.
FONTS = ("Noto Sans CJK JP", "Noto Sans", "Noto Sans Arabic", "Noto Sans Devanagari", "Arial")
MOST_LABELS = 110  # on a side of the picture; of more tokens every second, third, ... is labelled
DPI = 120


class Kind(NamedTuple):
  """Describes one kind of attention in all layers."""

  name: str
  caption: str
  rows: list[str]  # the T tokens that attend
  columns: list[str]  # the S tokens attended to
  weights: np.ndarray  # [layers, H, T, S]


class Picture(NamedTuple):
  """The content of a picture; `layer` and `head`, from 1, are shown first and large."""

  run: str
  text: str
  kinds: list[Kind]
  layer: int
  head: int


def write(picture: Picture, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes attention.png and attention.html into the folder, which is created."""
  paths = [folder / "attention.png", folder / "attention.html"]
  try:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(paths[1], page(picture))
    draw(picture, paths[0])
  except OSError as error:
    raise UserError(f"--out {folder}: {error.strerror or error}") from error
  return paths


def page(picture: Picture) -> str:
  """Returns HTML that loads no other file."""
  kinds = []
  for kind in picture.kinds:
    packed = base64.b64encode(np.round(kind.weights * STEPS).astype("<u2").tobytes()).decode()
    kinds.append(kind._asdict() | dict(shape=kind.weights.shape, weights=packed))
  text = json.dumps(picture._asdict() | dict(kinds=kinds), ensure_ascii=True)
  # so that no text can end the script element that holds it
  text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
  template, script = TEMPLATE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
  # the user's text last, so that nothing in it is replaced
  return template.replace("__SCRIPT__", script).replace("__DATA__", text)


def draw(picture: Picture, path: pathlib.Path) -> None:
  """Draws a row for each kind: all heads of all layers small, the chosen head large."""
  import matplotlib  # imported late: 1.2 s
  from matplotlib import font_manager
  from matplotlib.colors import LinearSegmentedColormap
  from matplotlib.figure import Figure

  colours = LinearSegmentedColormap.from_list("attention", COLOURS).with_extremes(bad="#d9d8d4")
  known = set(font_manager.get_font_names())
  fonts = ["DejaVu Sans", *(name for name in FONTS if name in known)]
  smalls, larges, heights = zip(*map(_size, picture.kinds))
  small, large = max(smalls), max(larges)
  with matplotlib.rc_context({"font.family": fonts}):
    figure = Figure(figsize=(small + large, sum(heights) + 0.6), dpi=DPI, layout="constrained")
    ratios = dict(width_ratios=[small, large], height_ratios=heights)
    grid = figure.subplots(len(heights), 2, squeeze=False, **ratios)
    title = picture.text if len(picture.text) < 90 else picture.text[:89] + "…"
    figure.suptitle(f"{picture.run}: {title}", fontsize=11, parse_math=False)
    for kind, (left, right) in zip(picture.kinds, grid):
      layer, head = min(picture.layer, len(kind.weights)), picture.head
      _draw_all(left, kind, layer, head, colours)
      _draw_one(right, kind, layer, head, colours)
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn instead
      figure.savefig(path)


def _size(kind) -> tuple[float, float, float]:
  """Returns inches: width of the small images, width of the large image, height."""
  L, H, T, S = kind.weights.shape
  wide, high = (min(max(0.19 * count, 2.6), 12.0) for count in (S, T))
  margin = 0.085 * min(max(map(len, [*kind.rows, *kind.columns])), 16) + 0.5
  height = max(high + margin, 0.42 * L + 0.8)
  small = min(height / L, 1.2) * H
  return min(max(small, 2.0), 7.0) + 0.5, wide + margin, height


def _draw_all(axes, kind, layer, head, colours):
  """Draws layers from top to bottom and heads from left to right, in one image."""
  L, H, T, S = kind.weights.shape
  gaps = max(1, T // 12), max(1, S // 12)
  high, wide = T + gaps[0], S + gaps[1]
  margins = ((0, 0), (0, 0), (0, gaps[0]), (0, gaps[1]))
  padded = np.pad(kind.weights.astype(float), margins, constant_values=np.nan)
  image = padded.swapaxes(1, 2).reshape(L * high, H * wide)[: -gaps[0], : -gaps[1]]
  axes.imshow(image, cmap=colours, vmin=0, vmax=1, aspect="auto")
  axes.set_xticks(np.arange(H) * wide + (S - 1) / 2, range(1, H + 1), fontsize=8)
  axes.set_yticks(np.arange(L) * high + (T - 1) / 2, range(1, L + 1), fontsize=8)
  axes.set(xlabel="head", ylabel="layer")
  axes.set_title(kind.name, fontsize=10, loc="left")
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  place = (head - 1) * wide - 0.5, (layer - 1) * high - 0.5
  frame = dict(fill=False, edgecolor=FRAME, linewidth=2, clip_on=False)
  axes.add_patch(type(axes.patch)(place, S, T, **frame))


def _draw_one(axes, kind, layer, head, colours):
  L, H, T, S = kind.weights.shape
  axes.imshow(kind.weights[layer - 1, head - 1], cmap=colours, vmin=0, vmax=1, aspect="auto")
  for side, tokens, turned in ((axes.xaxis, kind.columns, 90), (axes.yaxis, kind.rows, 0)):
    every = -(-len(tokens) // MOST_LABELS)
    tokens = [token if len(token) <= 16 else token[:15] + "…" for token in tokens[::every]]
    size = 8 if len(tokens) * every <= 75 else 6
    side.set_ticks(np.arange(len(tokens)) * every, tokens, fontsize=size, parse_math=False)
    axes.tick_params(side.axis_name, rotation=turned)
  axes.xaxis.tick_top()
  axes.tick_params(length=0)
  axes.set_xticks(np.arange(S - 1) + 0.5, minor=True)
  axes.set_yticks(np.arange(T - 1) + 0.5, minor=True)
  axes.grid(which="minor", color="#eceae6", linewidth=0.4)
  axes.tick_params(which="minor", length=0)
  axes.set_xlabel(f"layer {layer} of {L}, head {head} of {H}", fontsize=9)
