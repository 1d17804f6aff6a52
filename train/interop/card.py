"""Writes the README.md of an export: what the model is, how it was trained, and how to load it."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# The task of a kind of model, by the names of Hugging Face's hub.
PIPELINES = dict(
  mlm="fill-mask",
  classification="text-classification",
  tagging="token-classification",
  qa="question-answering",
  causal="text-generation",
  translation="translation",
  body="feature-extraction",
  replaced="token-classification",
  next_sentence="text-classification",
  choice="multiple-choice",
)
AUTO = dict(
  mlm="MaskedLM",
  classification="SequenceClassification",
  tagging="TokenClassification",
  qa="QuestionAnswering",
  causal="CausalLM",
  translation="Seq2SeqLM",
  replaced="PreTraining",
  next_sentence="NextSentencePrediction",
  choice="MultipleChoice",
)
TRANSFORMERS = """\
from transformers import AutoTokenizer, {auto}
tokenizer, model = AutoTokenizer.from_pretrained("DIR"), {auto}.from_pretrained("DIR")
print({use})
"""
# The use of a kind's model, by transformers.
USES = dict(
  causal="tokenizer.decode(model.generate(**tokenizer({text}, return_tensors='pt'))[0])",
  translation=(
    "tokenizer.batch_decode(model.generate(**tokenizer({text}, return_tensors='pt')),"
    " skip_special_tokens=True)"
  ),
  choice=(
    "model(**{{key: x[None] for key, x in tokenizer([{text}] * 2, ['One.', 'Two.'], padding=True,"
    " return_tensors='pt').items()}})"
  ),
)
# By CTranslate2: the class, its method, and the output's tokens.
SERVED = dict(
  translation=("Translator", "translate_batch", "hypotheses"),
  causal=("Generator", "generate_batch", "sequences"),
)
CTRANSLATE2 = """\
import ctranslate2, json, tokenizers
model, options = ctranslate2.{loaded}("DIR"), json.load(open("DIR/generation.json"))
tokenizer = tokenizers.Tokenizer.from_file("DIR/tokenizer.json")
output = model.{method}([tokenizer.encode({text}).tokens], **options)[0].{outputs}[0]
print(tokenizer.decode([tokenizer.token_to_id(token) for token in output]))
"""
ENCODER = """\
import ctranslate2, tokenizers
model, tokenizer = ctranslate2.Encoder("DIR"), tokenizers.Tokenizer.from_file("DIR/tokenizer.json")
states = model.forward_batch([tokenizer.encode({text}).tokens]).last_hidden_state
"""
MARIAN = """\
import ctranslate2, json, sentencepiece
model, options = ctranslate2.Translator("DIR"), json.load(open("DIR/generation.json"))
source, target = map(sentencepiece.SentencePieceProcessor, ("DIR/source.spm", "DIR/target.spm"))
output = model.translate_batch([[*source.encode({text}, out_type=str), "{eos}"]], **options)
print(target.decode(output[0].hypotheses[0]))
"""


class Card(NamedTuple):
  """The facts that a card has, each section as lines."""

  kind: str  # of families.KINDS
  library: str  # transformers or ctranslate2
  origin: str  # the run's folder, or hf:DIR
  license: str
  usage: str  # lines of Python
  model: Mapping[str, str]  # what the model is
  data: Mapping[str, str]  # split or setting -> digest or value
  metrics: Sequence[tuple[str, str, str]]  # split, metric, value
  training: Mapping[str, str]
  notes: Sequence[str] = ()

  def render(self) -> str:
    """Returns the text of README.md, whose front matter hubs read."""
    parts = [self._front_matter(), f"# {self.origin}", _list(self.model)]
    parts += ["## Use", f"```python\n{self.usage}```"]
    if self.notes:
      parts.append("\n".join(f"- {note}" for note in self.notes))
    if self.metrics:
      rows = ["| split | metric | value |", "|---|---|---|"]
      rows += [f"| {' | '.join(map(_cell, row))} |" for row in self.metrics]
      parts += ["## Metrics", "\n".join(rows)]
    for title, facts in (("## Data", self.data), ("## Training", self.training)):
      if facts:
        parts += [title, _list(facts)]
    return "\n\n".join(parts) + "\n"

  def _front_matter(self) -> str:
    fields = dict(
      license=self.license, library_name=self.library, pipeline_tag=PIPELINES[self.kind]
    )
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "tags:", "- scriptorium", "---"])


def usage(kind: str, library: str, text: str, eos: str = "") -> str:
  """Returns lines of Python that use an export; `eos` for one with SentencePiece's two models."""
  quoted = json.dumps(text, ensure_ascii=False)
  if library == "transformers":
    use = USES.get(kind, "model(**tokenizer({text}, return_tensors='pt'))")
    auto = f"AutoModelFor{AUTO[kind]}" if kind in AUTO else "AutoModel"
    return TRANSFORMERS.format(auto=auto, use=use.format(text=quoted))
  if eos:
    return MARIAN.format(text=quoted, eos=eos)
  if kind == "body":
    return ENCODER.format(text=quoted)
  loaded, method, outputs = SERVED[kind]
  return CTRANSLATE2.format(loaded=loaded, method=method, outputs=outputs, text=quoted)


def _list(facts: Mapping[str, str]) -> str:
  return "\n".join(f"- {key}: {_cell(value)}" for key, value in facts.items())


def _cell(text: str) -> str:
  """Returns a text on one line, without what ends a cell of a table."""
  return " ".join(str(text).replace("|", "\\|").split())
