"""python -m train.main --config configs/opus100.py:data=DIR --workdir runs/opus100 \\
    --coordinator=auto     # on each host of a v5e pod

Translates between English and 99 languages (OPUS-100, Zhang et al. 2020) with one model: each
direction is a part of a mixture, a token such as <2de> before a source names its target language,
and the rate of a direction is its number of pairs to the power of 1/temperature. The folder has one
for each pair, as the corpus comes (opus-100-corpus/v1.0/supervised): en-fr/opus.en-fr-train.en,
en-fr/opus.en-fr-train.fr, then dev and test, which some pairs lack. languages=de+fr reads these
pairs alone. Batches, model and schedule are those of configs/wmt14.py with a vocabulary of 64,000.

python -m train.evaluate --workdir runs/opus100 --split test   # BLEU of every direction
python -m train.predict --workdir runs/opus100 "<2fr> A dog runs."

On paper: 55 million pairs, each in both directions, are 5.5 billion tokens at 50 a pair. They are
read as text, as train.prepare does not take mixtures, from each host's disk or a bucket; the lines
of the files are counted once.

Time: not measured; with all directions each of a process's streams takes 250 MB and 6 seconds of a
core before the first batch (measured: 2.0 GB and 49 s for the 8 streams of one process). Expected:
no number was measured.
"""

from configs import common, wmt14
from configs.common import Argument

# fmt: off
LANGUAGES = (
  "af", "am", "an", "ar", "as", "az", "be", "bg", "bn", "br", "bs", "ca", "cs", "cy", "da", "de",
  "dz", "el", "eo", "es", "et", "eu", "fa", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he",
  "hi", "hr", "hu", "hy", "id", "ig", "is", "it", "ja", "ka", "kk", "km", "kn", "ko", "ku", "ky",
  "li", "lt", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "mt", "my", "nb", "ne", "nl", "nn", "no",
  "oc", "or", "pa", "pl", "ps", "pt", "ro", "ru", "rw", "se", "sh", "si", "sk", "sl", "sq", "sr",
  "sv", "ta", "te", "tg", "th", "tk", "tr", "tt", "ug", "uk", "ur", "uz", "vi", "wa", "xh", "yi",
  "yo", "zh", "zu",
)
# fmt: on
NAMES = dict(train="train", validation="dev", test="test")
VALIDATION = 200  # pairs of each direction


def get_config(arg=""):
  arg = common.parse(
    arg,
    data=Argument("data/opus-100-corpus/v1.0/supervised", "the folder with a folder of each pair"),
    languages=Argument("", "some of the languages beside English, as de+fr; empty: all 99"),
    temperature=Argument(5.0, "1: rates as the numbers of pairs; higher: nearer to each other"),
    size=Argument(("base", "big"), "size of the model, as in configs/wmt14.py"),
    small=False,
  )
  if arg.temperature < 1:
    raise ValueError(f"argument temperature={arg.temperature}: 1 or more")
  languages = arg.languages.split("+") if arg.languages else LANGUAGES
  cfg = wmt14.get_config(f"size={arg.size}" + ",small" * arg.small)
  lengths = {side: cfg.task[side] for side in ("source_len", "target_len")}
  pairs = [pair for other in languages for pair in (("en", other), (other, "en"))]
  special = tuple(f"<2{language}>" for language in ("en", *languages))
  cfg.task = dict(
    name="mixture",
    main="-".join(pairs[0]),
    parts={"-".join(pair): direction(arg.data, *pair) for pair in pairs},
    tokenizer=dict(name="bpe", vocab_size=500 if arg.small else 64_000, special=special),
    alpha=1 / arg.temperature,
    **lengths,
  )
  cfg.evaluate.decode_every = 0  # decoding the validation pairs of 198 directions takes hours
  return cfg


def direction(data, source, target):
  """Returns the part of a direction. Its data are streamed, so that a run does not begin by
  tokenising all of them."""
  pair = "-".join(sorted((source, target)))

  def path(name, language):
    return f"{data}/{pair}/opus.{pair}-{name}.{language}"

  there = [split for split, name in NAMES.items() if common.exists(path(name, source))]
  splits = {
    split: dict(source=path(NAMES[split], source), target=path(NAMES[split], target))
    for split in there or NAMES
  }
  limit = dict(validation=VALIDATION) if "validation" in splits else {}
  files = dict(name="files", splits=splits, stream=True, limit=limit)
  return dict(name="translation", data=files, target_lang=target)
