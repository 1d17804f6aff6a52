"""Hypothesis strategies for nearly valid files: valid ones, mutated."""

import contextlib
import copy
import functools
import gzip
import io
import json
import math
import struct
import zipfile

import pyarrow as pa
from hypothesis import strategies as st

# Texts that replace a value in JSON; Python's json module cannot write them.
RAW = {
  "raw deep": "[" * 3000 + "]" * 3000,
  "raw deep object": '{"a":' * 300 + "1" + "}" * 300,
  "raw long": "9" * 5000,
  "raw huge": "1e999",
  "raw surrogate": '"\\ud800"',
}
VALUES = [None, True, False, 0, 1, -1, 3, 2**31, 2**32 - 1, 10**12, 10**30, -(2**63), 0.5, 1e300]
VALUES += [
  math.nan,
  math.inf,
  "",
  "a",
  "\0",
  "é\u2028",
  "../../etc/passwd",
  "/etc/passwd",
  "x" * 3000,
]
VALUES += [[], {}, [1], ["a"], [[]], {"a": 1}, {"": None}, [None, -1], "gated-relu", "<s>", *RAW]


@st.composite
def changed_bytes(draw, content: bytes) -> bytes:
  """Flips, cuts, doubles, inserts or removes bytes, a few times."""
  made = bytearray(content)
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, len(made)))
    length = draw(st.integers(1, 12))
    match draw(st.sampled_from(["flip", "cut", "double", "insert", "remove", "overwrite"])):
      case "flip" if at < len(made):
        made[at] ^= 1 << draw(st.integers(0, 7))
      case "cut":
        del made[at:]
      case "double":
        made[at:at] = made[at : at + 10 * length]
      case "insert":
        made[at:at] = draw(
          st.binary(max_size=length) | st.sampled_from([b"\xff" * 20, b"\0" * 8, b"\n"])
        )
      case "remove":
        del made[at : at + length]
      case "overwrite":
        made[at : at + length] = draw(st.sampled_from([b"\xff", b"\0", b"\x7f", b'"'])) * length
  return bytes(made)


def _places(value, places):
  """Adds (container, key) of each value inside to `places`."""
  for key, part in value.items() if isinstance(value, dict) else enumerate(value):
    places.append((value, key))
    if isinstance(part, (dict, list)):
      _places(part, places)
  return places


@st.composite
def changed_json(draw, content: bytes) -> bytes:
  """Replaces values by values of other types; removes, renames or adds keys; or replaces the whole
  content."""
  made = [json.loads(content)]
  for _ in range(draw(st.integers(1, 3))):
    places = _places(made, [])
    # the few places at the top are drawn as often as the many further inside
    where, key = draw(st.sampled_from(places[: 1 + 40]) | st.sampled_from(places))
    what = draw(st.sampled_from(["value", "value", "value", "gone", "renamed", "twice"]))
    if what == "value" or where is made:
      where[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
      if not isinstance(made[0], (dict, list)):
        break
    elif what == "gone":
      del where[key]
    elif isinstance(where, dict):
      where[draw(st.sampled_from(["a", "", "content", "type", "é"]))] = copy.deepcopy(where[key])
    else:
      where.insert(key, copy.deepcopy(where[key]))
  text = json.dumps(made[0], ensure_ascii=draw(st.booleans()))
  for name, raw in RAW.items():
    text = text.replace(f'"{name}"', raw)
  return text.encode()


@st.composite
def changed_lines(draw, content: bytes) -> bytes:
  """Mutates one line of JSON lines or text."""
  lines = content.split(b"\n")
  at = draw(st.integers(0, len(lines) - 1))
  lines[at] = draw(_changed_line(lines[at]))
  return b"\n".join(lines)


@st.composite
def changed_safetensors(draw, content: bytes) -> bytes:
  """Mutates the header as JSON; its claimed length may be wrong."""
  (size,) = struct.unpack("<Q", content[:8])
  header = draw(changed_json(content[8 : 8 + size]))
  claimed = draw(st.sampled_from([len(header)] * 6 + [0, 2**63, 10**8, 10**8 + 1, len(header) - 1]))
  return struct.pack("<Q", claimed) + header + content[8 + size :]


@st.composite
def changed_zip(draw, content: bytes) -> bytes:
  """Mutates a member, or gives it a name that leads out of the folder."""
  made = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
    for name in old.namelist():
      member = draw(st.just(old.read(name)) | changed_bytes(old.read(name)))
      prefix = draw(st.sampled_from(["", "", "", "../../", "/"]))
      new.writestr(prefix + name, member)
  return made.getvalue()


def _changed_line(content: bytes):
  with contextlib.suppress(ValueError):
    if isinstance(json.loads(content), (dict, list)):
      return changed_json(content) | changed_bytes(content)
  return changed_bytes(content)


def near(name: str, content: bytes):
  """Draws mutations of `content` that fit the file's name, and a few of any bytes."""
  if name.endswith(".gz"):
    inner = gzip.decompress(content)
    inside = near(name.removesuffix(".gz"), inner).map(lambda x: gzip.compress(x, 1))
    return inside | changed_bytes(content)
  if name.endswith(".zst"):
    inner = pa.CompressedInputStream(pa.BufferReader(content), "zstd").read()
    pack = functools.partial(pa.Codec("zstd").compress, asbytes=True)
    return near(name.removesuffix(".zst"), inner).map(pack) | changed_bytes(content)
  strategies = [changed_bytes(content), st.binary(max_size=100), changed_bytes(content)]
  if name.endswith(".safetensors"):
    strategies = [changed_safetensors(content), *strategies]
  elif name.endswith(".whl"):
    strategies = [changed_zip(content), *strategies]
  elif name.endswith(".json"):
    strategies = [changed_json(content), changed_json(content), *strategies]
  elif name.endswith(".jsonl"):
    strategies = [changed_lines(content), *strategies]
  return st.one_of(*strategies)
