"""python -m train.export --workdir runs/sst2 --checkpoint best --out DIR [--format ctranslate2]

Writes a trained run, or hf:DIR, as a Hugging Face directory (config.json, model.safetensors and a
tokenizer) that `transformers` loads with its Auto classes. Its family is one that can express all
settings of the run; if there is none, the error names the settings without a counterpart. --format
ctranslate2 converts the result for CTranslate2 (needs ctranslate2, transformers and torch).
"""

import importlib.util
import json
import pathlib
import shutil
import tempfile

import jax
from absl import logging

from train import inference, pretrained
from train.common import entry
from train.common.errors import UserError
from train.common.trees import flatten, unstacked
from train.interop import directory, tokenizers_out, writing
from train.interop.families import KINDS
from train.tasks import (
  causal,
  classification,
  denoising,
  mlm,
  qa,
  seq2seq,
  tagging,
  translation,
)

FORMATS = ("hf", "ctranslate2")
KIND_OF = {
  mlm.Mlm: "mlm",
  classification.Classification: "classification",
  tagging.Tagging: "tagging",
  qa.Qa: "qa",
  causal.Causal: "causal",
  translation.Translation: "translation",
  denoising.Denoising: "translation",
}


def as_hf(workdir, checkpoint: str, out: pathlib.Path) -> None:
  """Writes the run into the folder `out`; raises UserError for what has no counterpart."""
  found = pretrained.open(workdir).directory
  if found:
    model, kind, tokenizer, params = found.model, found.kind, found.tokenizer, found.params
    labels, first, activation = found.labels, found.family.model_type, found.family.pool_activation
    decoding = found.generation if kind in ("causal", "translation") else None
    labels = labels if kind in ("classification", "tagging") else ()
    origin = found
  else:
    run = inference.load_run(workdir, checkpoint)
    task = run.task
    kind, tokenizer = _kind(task), task.tokenizer
    model = dict(run.cfg.model)
    model["vocab_size"] = model.get("vocab_size") or tokenizer.vocab_size
    params, origin = unstacked(flatten(jax.device_get(run.params))), _origin(run.cfg)
    first = origin.family.model_type if origin else ""
    labels, activation = getattr(task, "labels", ()), getattr(task, "pool_activation", "tanh")
    if getattr(task, "regression", False):
      labels = ("value",)
    decoding = getattr(task, "decoding", None)
  fit = writing.best(model, kind, activation, first)
  _check_new(out)
  target, out = out, out.with_name(f".{out.name}.partial")
  shutil.rmtree(out, ignore_errors=True)
  out.mkdir(parents=True)
  roles, both = tokenizer.roles, bool(model["encoder_layers"] and model["decoder_layers"])
  more = dict(
    pad_token_id=roles.pad,
    eos_token_id=roles.eos,
    bos_token_id=(*roles.first, *roles.source_first, roles.start)[0],
    is_encoder_decoder=both,
  )
  if origin:
    more["bos_token_id"] = origin.config.get("bos_token_id")
  if both:
    more["decoder_start_token_id"] = roles.start
  if roles.mask is not None and fit.family.model_type == "esm":
    more["mask_token_id"] = roles.mask
  if kind == "classification" and len(labels) == 1:
    more["problem_type"] = "regression"
  zeros = writing.write(out, fit, kind, params, more, labels)
  if tokenizer.targets_differ and origin:  # Marian's two sets of pieces fit no single file
    for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
      if (origin.path / name).exists():
        shutil.copy(origin.path / name, out / name)
  else:
    side = "encoder-decoder" if both else "encoder" if model["encoder_layers"] else "decoder"
    tokenizers_out.write(tokenizer, out, side, _longest(fit.model))
  if decoding is not None:
    _write_generation(out, decoding, more, roles)
  if target.is_dir():
    target.rmdir()  # it is empty
  out.rename(target)
  logging.info("%s: a %s (%s)", target, fit.family.model_type, fit.config["architectures"][0])
  if zeros:
    logging.info("weights that the run has none of are zeros: %s", ", ".join(zeros))


def _check_new(out: pathlib.Path) -> None:
  if out.is_dir() and (names := sorted(path.name for path in out.iterdir())):
    raise UserError(f"--out {out} is not empty ({', '.join(names[:5])}); name a new folder")
  if out.exists() and not out.is_dir():
    raise UserError(f"--out {out} is a file; name a new folder")


def _kind(task) -> str:
  kind = KIND_OF.get(type(task))
  if kind is None:
    raise UserError(f"a {type(task).__name__} run has no counterpart; there are {', '.join(KINDS)}")
  if getattr(task, "prefix", False):
    raise UserError("task.prefix: no causal model of transformers sees a prefix whole")
  if getattr(task, "pool", "first") != "first":
    raise UserError(f"task.pool={task.pool!r} has no counterpart: transformers pools the first")
  return kind


def _origin(cfg) -> directory.Directory | None:
  """Returns the Hugging Face directory that a run started from, if it did."""
  start = cfg.init_from.workdir
  return pretrained.open(start).directory if start else None


def _longest(model) -> int:
  return model["max_len"] if model["positions"] == "learned" else 10**9


def _write_generation(out, decoding, more, roles) -> None:
  """Writes generation_config.json, our settings of decoding as far as transformers has them."""
  decoding = seq2seq.Decoding(**decoding)
  never = {roles.pad, roles.start} - {roles.eos}
  content = dict(
    **{key: more[key] for key in ("pad_token_id", "eos_token_id", "bos_token_id")},
    num_beams=decoding.beam,
    length_penalty=decoding.length_penalty,
    early_stopping={stop: name for name, stop in directory.STOPS.items()}[decoding.stop],
    do_sample=bool(decoding.temperature),
    max_new_tokens=decoding.max_len_extra,
    suppress_tokens=sorted(never) or None,
  )
  if "decoder_start_token_id" in more:
    content["decoder_start_token_id"] = more["decoder_start_token_id"]
  if roles.target_first:
    content["forced_bos_token_id"] = roles.target_first[0]
  if decoding.temperature:
    content |= dict(temperature=decoding.temperature)
    content |= dict(top_k=decoding.top_k or 0, top_p=decoding.top_p)
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


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument("--format", choices=FORMATS, default="hf")
  args = parser.parse_args(argv)
  write = as_hf if args.format == "hf" else as_ctranslate2
  write(args.workdir, args.checkpoint, args.out)
  print(args.out)


if __name__ == "__main__":
  entry.run(main)
