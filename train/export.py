"""python -m train.export --workdir runs/sst2 --checkpoint best --out DIR [--format ctranslate2]

Writes a trained run, or hf:DIR, as a Hugging Face directory (config.json, model.safetensors and a
tokenizer) that `transformers` loads with its Auto classes. The directory's family can express all
settings of the run; without such a family, the error names the settings without a counterpart.
--format ctranslate2 converts the result for CTranslate2 (needs ctranslate2, transformers and
torch).
"""

import importlib.util
import json
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import logging

from train import inference, pretrained
from train.common import entry
from train.common.errors import UserError
from train.common.trees import flatten, unstack_layers
from train.data.tokenizer import Tokenizer
from train.interop import sentence_transformers, tokenizers_out, writing
from train.interop.directory import STOPS, Directory
from train.interop.families import KINDS, Head
from train.tasks import seq2seq
from train.tasks.base import HuggingFace


class Source(NamedTuple):
  """A trained model in the form that is exported."""

  model: dict  # the section `model`, with vocab_size
  params: Mapping[str, Any]  # path -> weight, each layer under its own path
  tokenizer: Tokenizer
  task: HuggingFace
  origin: Directory | None  # the Hugging Face directory that it is, or started from


def as_hf(workdir, checkpoint: str, out: pathlib.Path) -> None:
  """Writes the run into the folder `out`; raises UserError for what has no counterpart."""
  source = _source(workdir, checkpoint)
  model, tokenizer, task, origin = source.model, source.tokenizer, source.task, source.origin
  first = origin.family.model_type if origin else ""
  head = Head(task.pool, task.pool_activation, task.transform, task.head_bias)
  if task.kind == "mlm":
    head = head._replace(activation=task.pool_activation or model["activation"])
  fit = writing.best(model, task.kind, head, first)
  writing.check_start(fit, task.kind, tokenizer.roles)
  _check_new(out)
  target, out = out, out.with_name(f".{out.name}.partial")
  shutil.rmtree(out, ignore_errors=True)
  out.mkdir(parents=True)
  ids = _special_ids(source, fit.family.model_type)
  more = ids | dict(is_encoder_decoder="decoder_start_token_id" in ids)
  if task.problem:
    more["problem_type"] = task.problem
  if task.labels:
    more["id2label"] = {str(i): label for i, label in enumerate(task.labels)}
    more["label2id"] = {label: i for i, label in enumerate(task.labels)}
  zeros = writing.write(out, fit, task.kind, source.params, more)
  if tokenizer.targets_differ and origin:  # Marian's two sets of pieces fit no single file
    for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
      if (origin.path / name).exists():
        shutil.copy(origin.path / name, out / name)
  else:
    sides = [side for side in ("encoder", "decoder") if model[f"{side}_layers"]]
    longest = fit.model["max_len"] if fit.model["positions"] == "learned" else 10**9
    tokenizers_out.write(tokenizer, out, "-".join(sides), longest)
  if task.kind == "body" and origin:
    sentence_transformers.copy(origin.path, out)
  if task.decoding:
    _write_generation(out, task.decoding, ids, tokenizer.roles)
  if target.is_dir():
    target.rmdir()  # it is empty
  out.rename(target)
  logging.info("%s: a %s (%s)", target, fit.family.model_type, fit.config["architectures"][0])
  if zeros:
    logging.info("weights that the run lacks are written as zeros: %s", ", ".join(zeros))


def _source(workdir, checkpoint) -> Source:
  if origin := pretrained.open(workdir).directory:
    kind = origin.kind
    labels = origin.labels if kind in ("classification", "tagging") else ()
    pool, activation, transform, bias = origin.head
    generates = kind in ("causal", "translation")
    decoding = seq2seq.Decoding(**origin.generation) if generates else None
    problem = origin.problem if kind == "classification" else ""
    task = HuggingFace(kind, labels, activation, decoding, problem, pool, transform)
    task = task._replace(head_bias=bias)
    return Source(origin.model, origin.params, origin.tokenizer, task, origin)
  run = inference.load_run(workdir, checkpoint)
  task, tokenizer, start = run.task.hugging_face(), run.task.tokenizer, run.cfg.init_from.workdir
  if not task.kind:
    name = type(run.task).__name__
    raise UserError(f"a {name} run has no counterpart; there are {', '.join(KINDS)}")
  model = dict(run.cfg.model)
  model["vocab_size"] = model.get("vocab_size") or tokenizer.vocab_size
  origin = pretrained.open(start).directory if start else None
  return Source(model, unstack_layers(flatten(jax.device_get(run.params))), tokenizer, task, origin)


def _special_ids(source: Source, model_type: str) -> dict[str, int | None]:
  """Returns the ids of special tokens by their names in config.json."""
  roles, origin = source.tokenizer.roles, source.origin
  first = (*roles.first, *roles.source_first, roles.start)[0]
  ids = dict(
    pad_token_id=roles.pad,
    eos_token_id=roles.eos,
    bos_token_id=origin.config.get("bos_token_id") if origin else first,
  )
  if source.model["encoder_layers"] and source.model["decoder_layers"]:
    ids["decoder_start_token_id"] = roles.start
  if roles.mask is not None and model_type == "esm":
    ids["mask_token_id"] = roles.mask
  return ids


def _check_new(out: pathlib.Path) -> None:
  if out.is_dir() and (names := sorted(path.name for path in out.iterdir())):
    raise UserError(f"--out {out} is not empty ({', '.join(names[:5])}); name a new folder")
  if out.exists() and not out.is_dir():
    raise UserError(f"--out {out} is a file; name a new folder")


def _write_generation(out, decoding: seq2seq.Decoding, ids, roles) -> None:
  """Writes generation_config.json, our settings of decoding as far as transformers has them."""
  never = {roles.pad, roles.start} - {roles.eos}
  content = dict(
    **{key: ids[key] for key in ("pad_token_id", "eos_token_id", "bos_token_id")},
    num_beams=decoding.beam,
    length_penalty=decoding.length_penalty,
    early_stopping={stop: name for name, stop in STOPS.items()}[decoding.stop],
    do_sample=bool(decoding.temperature),
    max_new_tokens=decoding.max_len_extra,
    suppress_tokens=sorted(never) or None,
    decoder_start_token_id=ids.get("decoder_start_token_id"),
    forced_bos_token_id=next(iter(roles.target_first), None),
  )
  if decoding.temperature:
    content |= {key: getattr(decoding, key) for key in ("temperature", "top_k", "top_p")}
  if decoding.penalty == "wu" and decoding.length_penalty and decoding.beam > 1:
    logging.warning(
      "decoding.penalty 'wu' has no counterpart: transformers divides by length ** %g instead of"
      " ((5 + length) / 6) ** %g, so the order of beams may differ",
      decoding.length_penalty,
      decoding.length_penalty,
    )
  if decoding.max_len_ratio:
    logging.warning(
      "decoding.max_len_ratio has no counterpart: max_new_tokens is only max_len_extra=%d",
      decoding.max_len_extra,
    )
  text = json.dumps({k: v for k, v in content.items() if v is not None}, indent=2)
  (out / "generation_config.json").write_text(text + "\n", encoding="utf-8")


def as_ctranslate2(workdir, checkpoint: str, out: pathlib.Path) -> None:
  """Writes the run for CTranslate2, by its own converter from a Hugging Face directory."""
  for name in ("ctranslate2", "transformers", "torch"):
    if importlib.util.find_spec(name) is None:
      raise UserError(
        f"--format ctranslate2 needs the package {name}: pip install ctranslate2 transformers torch"
      )
  import ctranslate2

  _check_new(out)
  with tempfile.TemporaryDirectory() as folder:
    as_hf(workdir, checkpoint, pathlib.Path(folder) / "hf")
    converter = ctranslate2.converters.TransformersConverter(f"{folder}/hf")
    try:
      converter.convert(str(out), force=True)  # into a folder that is empty
    except ValueError as error:  # it does not support the family
      raise UserError(f"CTranslate2 cannot serve this model: {error}") from error


FORMATS = {"hf": as_hf, "ctranslate2": as_ctranslate2}


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder to write")
  parser.add_argument("--format", choices=FORMATS, default="hf", help="whose files (default: hf)")
  args = parser.parse_args(argv)
  FORMATS[args.format](args.workdir, args.checkpoint, args.out)
  print(args.out)


if __name__ == "__main__":
  entry.run(main)
