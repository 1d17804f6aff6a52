"""python -m experiments.run experiments/clark2020_electra.py --data DIR

Clark et al. 2020, "ELECTRA": replaced-token detection, which learns from all tokens, against a
masked language model, which learns from the hidden ones.

Small scale: encoders of 0.7 million parameters read Shakespeare for 3,000 updates of 1,024 tokens
and are fine-tuned to classify questions (TREC), three seeds: 25 minutes of one CPU core. Full
scale: both at BERT-base's size on DIR/books, and GLUE's SST-2; not run.
"""

from experiments.tools.runs import Order, Run, Value, evaluate_every, seeds

# objective -> its metrics
OBJECTIVES = {
  "electra": ("replaced_recall", "token_accuracy", "perplexity"),
  "mlm": ("perplexity",),
}
SMALL = {
  "model.dim": 128,
  "model.num_heads": 4,
  "model.mlp_dim": 512,
  "model.encoder_layers": 3,
  "model.dropout": 0.0,
  "task.source_len": 64,
  "task.tokenizer.vocab_size": 1000,
  "batch_size": 16,
} | evaluate_every(500)
CLAIM = "section 3.4: all tokens teach more than 15% of them"
WHY = "after three million tokens the discriminator has only begun to detect replaced words"


def runs(scale):
  if scale == "full":
    text, changes = "{data}/books,size=base,steps=766000,peak=2e-4", {}
    task, tuning, split = "glue.py:name=sst2,steps=6000,peak=1e-4", {}, "validation"
  else:
    text, changes = "{data}/prose/shakespeare.txt.gz,steps=3000", SMALL
    task, split = "classify.py:data={data}/trec,dev=10%,pool=mean,steps=400,peak=1e-3", "test"
    tuning = {"batch_size": 16} | evaluate_every(200)
  changes = changes | {"evaluate.decode_every": 0}
  for name, metrics in OBJECTIVES.items():
    config = f"configs/{name}.py:data={text}"
    yield Run(name, config, changes, splits=("validation",), metrics=metrics)
    config = f"configs/{task},init={{root}}/{name}"
    yield from seeds(Run(f"tuned-{name}", config, tuning, splits=(split,)))


def expected(scale):
  yield Value("replaced tokens that are detected", "electra", "validation/replaced_recall")
  yield Value("tokens judged right", "electra", "validation/token_accuracy")
  ours, accuracy = [rf"tuned-{name}-seed\d" for name in OBJECTIVES], "test/accuracy"
  if scale == "full":
    accuracy = "validation/accuracy"
  yield Order("classification after ELECTRA over after MLM", *ours, accuracy, CLAIM, why=WHY)
