"""python -m train.main --config configs/span.py:data=DIR --workdir runs/span

Learns denoising with an encoder-decoder (Raffel et al. 2020) of about 10 million parameters on the
texts of a folder or glob; the last fiftieth of each file is held out. size=base, large, 3b and 11b
are T5's models, with batches of 2,048 rows of 512 tokens, for accelerators (see train.plan); the
largest two split their weights over 32 devices. style=ul2 mixes the seven denoisers of UL2 (Tay et
al. 2022, table 1) in equal parts, each of which reads the data in an order of its own. Their modes
[R], [S] and [X] stand before the sources, and may stand before a text to predict from:
python -m train.predict --workdir runs/span "[S] Once upon a time"

Time: 14 minutes of one CPU core for 600 updates of 16 rows on 3.3 million words of prose and plays.
Expected: a perplexity of 145.0.
"""

from configs import common, sections
from configs.common import Argument

STYLES = ("spans", "iid", "drop", "mask", "bert", "deshuffle", "prefix", "suffix")
MODES = ("[R]", "[S]", "[X]")
# UL2's denoisers: mode, style, share of the tokens, mean length of a span, and the longest window
# that rows of 128 and of 512 tokens hold.
UL2 = {
  "r3": ("[R]", "spans", 0.15, 3.0, (140, 567)),
  "r8": ("[R]", "spans", 0.15, 8.0, (145, 587)),
  "s": ("[S]", "suffix", 0.25, 1.0, (127, 511)),
  "x3": ("[X]", "spans", 0.5, 3.0, (189, 765)),
  "x8": ("[X]", "spans", 0.5, 8.0, (224, 907)),
  "x64": ("[X]", "spans", 0.15, 64.0, (147, 599)),
  "x64_half": ("[X]", "spans", 0.5, 64.0, (248, 1004)),
}
SENTINELS = 128  # a window of x3 has 127 spans

LARGE = dict(dim=1024, num_heads=16, mlp_dim=4096, encoder_layers=24, decoder_layers=24)
HUGE = LARGE | dict(head_dim=128, scan_layers=True, remat="full")
SIZES = {
  "mini": sections.ENCODER | dict(encoder_layers=3, decoder_layers=2),
  "base": sections.T5,
  "large": sections.T5 | LARGE,
  "3b": sections.T5 | HUGE | dict(num_heads=32, mlp_dim=16384),
  "11b": sections.T5 | HUGE | dict(num_heads=128, mlp_dim=65536),
}
# Tokens of a window, of its source and of its target, by whether rows are T5's and whether both
# sides hold a whole window. Where only one does, T5's window is what gives a source of 512.
LENGTHS = {
  (False, False): (126, 128, 64),
  (False, True): (126, 128, 128),
  (True, False): (566, 512, 128),
  (True, True): (510, 512, 512),
}
ARGUMENTS = dict(
  size=Argument(tuple(SIZES), "size of the model and its batches"),
  init="",
  style=Argument(
    (*STYLES, "ul2"), "how texts are corrupted (Raffel et al., tables 4 to 7), or UL2"
  ),
  rate=Argument(0.15, "share of the tokens that are corrupted"),
  mean_span=Argument(3.0, "tokens of a corrupted span on average"),
  steps=2000,
  peak=1e-3,
  small=False,
)


def get_config(arg=""):
  data = Argument("data/prose", "a text file, folder or glob")
  arg = common.parse(arg, data=data, **ARGUMENTS)
  return build(arg, modes=arg.style == "ul2")


def build(arg, modes=False, **task):
  """Returns the run of ARGUMENTS, with `modes` in a new vocabulary; `task` replaces settings of its
  task."""
  model, t5 = SIZES[arg.size], arg.size != "mini"
  batch_size, vocab_size = (2048, 32_000) if t5 else (32, 8000)
  if arg.small:
    model = model | sections.SMALL | dict(encoder_layers=1, decoder_layers=1)
    batch_size, vocab_size, t5 = 8, 400, False
  # Rows hold a whole window on the side that needs one, and several short targets on the other.
  whole = arg.style not in ("spans", "iid", "drop") or arg.rate > 0.2
  length, source_len, target_len = LENGTHS[t5, whole]
  cfg = common.pretrain(
    arg,
    batch_size=batch_size,
    vocab_size=vocab_size,
    task=dict(name="span", length=length, source_len=source_len, target_len=target_len) | task,
    optimizer=dict(name="adafactor") if t5 else sections.ADAMW,
    # Over more devices a weight's parts have fewer than a TPU's 8 rows, and their gradients are not
    # scattered: on v5e:16x16 a step takes 1.3 times as long (estimate of train.plan).
    mesh=dict(fsdp=32) if t5 and arg.size in ("3b", "11b") else {},
    **(common.inherit(arg.init, skip=()) if arg.init else dict(model=model)),
  )
  if modes and cfg.task.tokenizer.name == "bpe":
    cfg.task.tokenizer.update(special=("<mask>", *MODES), sentinels=SENTINELS)
  if arg.style != "ul2":
    cfg.task.update(style=arg.style, rate=arg.rate, mean_span=arg.mean_span)
  elif (arg.rate, arg.mean_span) != (0.15, 3.0):
    raise ValueError("style=ul2 has rates and spans of its own: leave out rate and mean_span")
  else:
    cfg.task = mixed(cfg.task.to_dict(), t5)
  return cfg


def mixed(task, t5):
  """Returns the mixture of UL2's denoisers, of the section of one. The data are streamed however
  small they are: listed, all denoisers would read them in the same order."""
  shared = {key: task.pop(key) for key in ("tokenizer", "source_len", "target_len")}
  task["data"] = task["data"] | dict(stream=True)
  parts = {
    name: task | dict(mode=mode, style=style, rate=rate, mean_span=mean_span, length=lengths[t5])
    for name, (mode, style, rate, mean_span, lengths) in UL2.items()
  }
  return dict(name="mixture", main="r3", parts=parts, **shared)
