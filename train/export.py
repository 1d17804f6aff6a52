"""python -m train.export --workdir runs/sst2 --checkpoint best --out DIR [--format ctranslate2]

Writes a trained run, or hf:DIR, as a Hugging Face directory (config.json, model.safetensors and a
tokenizer) that `transformers` loads with its Auto classes. The directory's family can express all
settings of the run; without such a family, the error names the settings without a counterpart.
--format ctranslate2 writes a model for CTranslate2, which needs no family (and here the package
ctranslate2 alone). Each has a README.md, a model card with lines to use it. Where the library is
installed, the export and the run answer 20 inputs, and where they differ nothing is written.
--format peft writes the adapters of a run (lora.rank) for PEFT, without the model that they adapt;
--quantize int8 a run's folder with 8-bit weights, which predict, evaluate and init= read; --format
run one with floats, adapters merged and integers multiplied out.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping

from absl import logging

from model.settings import LEARNED
from train import export_adapter, export_check, export_facts, export_run, inference, pretrained
from train.common import entry, paths
from train.common.errors import UserError
from train.export_source import Source, open_source
from train.interop import (
  card,
  ctranslate2,
  generation_out,
  sentence_transformers,
  tokenizers_out,
  writing,
)
from train.interop.families.base import Head

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES += ("sentencepiece.bpe.model", "vocab.json", "added_tokens.json")


def as_hf(
  workdir, checkpoint: str, out: pathlib.Path, *, check: bool = False, license: str = "unknown"
) -> None:
  """Writes the run into the folder `out`; raises UserError for what has no counterpart.

  check: where transformers is installed, it must give the same answers. license: of the card.
  """
  source = open_source(workdir, checkpoint)
  model, tokenizer, facts, origin = source.model, source.tokenizer, source.facts, source.origin
  first = origin.family.model_type if origin else ""
  activation = facts.pool_activation or model["activation"]
  head = Head(facts.pool, activation, facts.transform, facts.head_bias)
  fit = writing.best(model, facts.kind, head, first)
  writing.check_task(fit, facts.kind, facts.global_attention, tokenizer.roles)
  with _new_folder(out) as folder:
    params, steps = source.weights()
    ids = _special_ids(source, fit.family.model_type)
    more = ids | dict(is_encoder_decoder="decoder_start_token_id" in ids)
    if facts.problem:
      more["problem_type"] = facts.problem
    if facts.labels:
      more["id2label"] = {str(i): label for i, label in enumerate(facts.labels)}
      more["label2id"] = {label: i for i, label in enumerate(facts.labels)}
    zeros = writing.write(folder, fit, facts.kind, params, more)
    longest = fit.model["max_len"] if fit.model["positions"] in LEARNED else 10**9
    _write_tokenizer(source, folder, longest, copy=True)
    if facts.kind == "body" and origin:
      sentence_transformers.copy(origin.path, folder)
    if facts.decoding:
      content = generation_out.for_transformers(facts.decoding, ids, tokenizer.roles)
      _write_json(folder / "generation_config.json", content)
    if fit.model["global_tokens"] and fit.model["decoder_layers"]:
      source.notes.append("The first token is global: pass a global_attention_mask with a 1 there.")
    if zeros:
      source.notes.append(f"Weights that the run lacks are zeros: {', '.join(zeros)}.")
    family = f"{fit.family.model_type} ({fit.config['architectures'][0]})"
    _finish(source, folder, steps, "hf", family, license, check)
  logging.info("%s: a %s", out, family)


def as_ctranslate2(
  workdir,
  checkpoint: str,
  out: pathlib.Path,
  *,
  check: bool = False,
  license: str = "unknown",
  quantize: str | None = None,
) -> None:
  """Writes the run for CTranslate2, with the arguments of its methods in generation.json; raises
  UserError, before any work, for what it cannot serve. `check` and `license` are as in `as_hf`;
  with `quantize` "int8", whose answers may differ, nothing is checked."""
  ctranslate2.require()
  source = open_source(workdir, checkpoint)
  if quantize and pretrained.quantized(source.trained).get("stored"):
    raise UserError(
      f"--quantize: the weights of {workdir} are integers already: name the run that it was made of"
    )
  model, facts, roles = source.model, source.facts, source.tokenizer.roles
  ctranslate2.check(model, facts.kind)
  with _new_folder(out) as folder:
    params, steps = source.weights()
    model.pop("name", None)
    longest = max(ctranslate2.POSITIONS, _positions(source))
    ctranslate2.write(folder, model, params, source.tokenizer, longest, quantize)
    if quantize:
      source.notes.append("Weights are 8-bit integers: answers may differ from the run's.")
    _write_tokenizer(source, folder, 10**9)
    if facts.decoding:
      names = ctranslate2.vocabulary(source.tokenizer, model["vocab_size"])
      generator = facts.kind == "causal"
      content = generation_out.for_ctranslate2(facts.decoding, names, roles, generator)
      source.notes.extend(generation_out.ctranslate2_notes(facts.decoding))
      _write_json(folder / "generation.json", content)
      if forced := [names[i] for i in roles.target_first if roles.force]:
        source.notes.append(f"Each output begins with: target_prefix=[{forced}].")
    check = check and not quantize
    _finish(source, folder, steps, "ctranslate2", "Transformer", license, check)
  logging.info("%s: a model for CTranslate2", out)


def _positions(source: Source) -> int:
  """Returns the positions that the longest inputs and outputs need."""
  output = source.facts.decoding.max_len_extra if source.facts.decoding else 0
  return max(source.task.source_len, source.task.target_len + output) + 1


@contextlib.contextmanager
def _new_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder that becomes `out` at the end, and that goes away after an error."""
  if out.is_dir() and (names := sorted(path.name for path in out.iterdir())):
    raise UserError(f"--out {out} is not empty ({', '.join(names[:5])}); name a new folder")
  if out.exists() and not out.is_dir():
    raise UserError(f"--out {out} is a file; name a new folder")
  folder = out.with_name(f".{out.name}.partial")
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  try:
    yield folder
    if out.is_dir():
      out.rmdir()  # it is empty
    folder.rename(out)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


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


def _write_tokenizer(source: Source, folder: pathlib.Path, longest: int, copy=False) -> None:
  """Writes the tokenizer's files; with `copy` those of a model of several languages are copied,
  whose class in transformers places the languages."""
  tokenizer, origin, names = source.tokenizer, source.origin, ()
  if tokenizer.targets_differ and origin:  # Marian's two sets of pieces fit no single file
    names = ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json")
  elif copy and origin and tokenizer.roles.languages:
    names = TOKENIZER_FILES
  for name in names:
    if (origin.path / name).exists():
      shutil.copy(origin.path / name, folder / name)
  if names and tokenizer.roles.languages:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8")) if file.exists() else {}
    _write_json(file, settings | tokenizers_out.languages(tokenizer))
  if not names:
    sides = [side for side in ("encoder", "decoder") if source.model[f"{side}_layers"]]
    tokenizers_out.write(tokenizer, folder, "-".join(sides), longest)


def _finish(source: Source, folder, steps, form: str, family: str, license: str, check: bool):
  """Writes the card, and checks the export."""
  facts, tokenizer = source.facts, source.tokenizer
  library = "transformers" if form == "hf" else "ctranslate2"
  eos = tokenizer.copy_inner().id_to_token(tokenizer.roles.eos) if tokenizer.targets_differ else ""
  text = export_check.inputs(source.task)[0]
  text = next((value for value in text.values() if isinstance(value, str)), "A text.")
  lines = card.usage(facts.kind, library, text[:100], eos)
  fields = dict(kind=facts.kind, family=family, library=library, license=license, usage=lines)
  notes = [note if note.endswith(".") else f"{note}." for note in source.notes]
  for note in notes:
    logging.info("%s", note)
  result = "not checked"
  if check:
    result = export_check.check(
      source.trained.name, source.checkpoint, folder, form, source.task, facts.decoding
    )
  logging.info("%s", result)
  notes.append(f"Compared with the source: {result}.")
  described = export_facts.card(source.trained, steps, notes=notes, **fields)
  (folder / "README.md").write_text(described.render(), encoding="utf-8")


def _write_json(path: pathlib.Path, content: Mapping) -> None:
  path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


FORMATS = {"hf": as_hf, "ctranslate2": as_ctranslate2}


def main(argv):
  parser = inference.parser(__doc__)
  parser.add_argument("--out", required=True, type=paths.of, help="the folder to write")
  parser.add_argument(
    "--format", choices=(*FORMATS, "peft", "run"), help="whose files (default: hf)"
  )
  export_run.add_arguments(parser)
  parser.add_argument(
    "--no-check",
    action="store_false",
    dest="check",
    help="writes without comparing the answers of the export with the run's",
  )
  parser.add_argument(
    "--license", default="unknown", help="the license in the card's front matter (unknown)"
  )
  args = parser.parse_args(argv)
  if paths.is_bucket(args.out):
    raise UserError(
      f"--out {args.out} lies in a bucket: name a folder on a disk, and copy it there"
    )
  if args.format == "run" or (args.quantize and not args.format):
    export_run.run(args, ["python", "-m", "train.export", *argv])
    print(args.out)
    return
  options = dict(check=args.check, license=args.license)
  given = [name for name in export_run.FLAGS if getattr(args, name) is not None]
  if args.format == "ctranslate2" and args.quantize == "int8" and given == ["quantize"]:
    options["quantize"] = "int8"
  elif given and not args.format:
    raise UserError(f"--{given[0]} has no effect without --quantize TYPE")
  elif given:
    raise UserError(
      f"--{given[-1]}: --format {args.format} holds floats, and ctranslate2 also int8"
      " weights (--quantize int8), all of them by its own rule; leave --format out"
    )
  writers = FORMATS | {"peft": export_adapter.as_peft}
  writers[args.format or "hf"](args.workdir, args.checkpoint, args.out, **options)
  print(args.out)


if __name__ == "__main__":
  entry.run(main)
