"""Translates by CTranslate2 or by transformers' generate from an export of ours, for
experiments/benchmark/decode.py."""

import json
import pathlib
import sys

from experiments.benchmark.sides import CORES, serve

BATCH = 64  # sentences of similar lengths
BATCH_TOKENS = 4096  # of CTranslate2: 1,024 to 4,096 and 32 to 64 sentences took the same time


def by_transformers(folder):
  """Returns a function that translates by generate, sorted by length."""
  import torch
  from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

  tokenizer = AutoTokenizer.from_pretrained(folder)
  model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()

  def decode(texts, beam):
    ids = tokenizer(texts)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: -len(ids[i]))
    outputs = [""] * len(texts)
    beams = {} if beam > 1 else dict(early_stopping=False)
    for start in range(0, len(order), BATCH):
      numbers = order[start : start + BATCH]
      batch = tokenizer.pad({"input_ids": [ids[i] for i in numbers]}, return_tensors="pt")
      with torch.inference_mode():
        generated = model.generate(**batch, num_beams=beam, **beams)
      for number, text in zip(numbers, tokenizer.batch_decode(generated, skip_special_tokens=True)):
        outputs[number] = text
    return dict(texts=outputs)

  return decode


def by_ctranslate2(folder, compute_type):
  """Returns a function that translates by CTranslate2, with the search that the export states."""
  import ctranslate2
  import tokenizers

  threads = dict(inter_threads=1, intra_threads=CORES)
  translator = ctranslate2.Translator(str(folder), compute_type=compute_type, **threads)
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  options = json.loads((folder / "generation.json").read_text("utf-8"))
  options |= dict(batch_type="tokens", max_batch_size=BATCH_TOKENS)

  def decode(texts, beam):
    tokens = [encoding.tokens for encoding in tokenizer.encode_batch(texts)]
    search = dict(beam_size=beam) if beam > 1 else dict(beam_size=1, patience=1)
    results = translator.translate_batch(tokens, **options | search)
    ids = [[tokenizer.token_to_id(x) for x in result.hypotheses[0]] for result in results]
    return dict(texts=tokenizer.decode_batch(ids))

  return decode


if __name__ == "__main__":
  how, folder = sys.argv[1], pathlib.Path(sys.argv[2])
  serve(decode=by_transformers(folder) if how == "transformers" else by_ctranslate2(folder, how))
