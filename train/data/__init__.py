"""Turns files into batches, without jax. A batch passes through these files:

1. sources.py opens a split by name: texts.py (documents), sentences.py (CoNLL), questions.py
   (SQuAD), files.py (parallel text, TSV, JSON lines), records.py (TFDS), gettext_catalogs.py (with
   gettext_messages.py) or scan.py.
   token_corpus.py opens tokens that train.prepare has written, in records of token_records.py.
   reading.py reads lines, bad_records.py counts broken ones, source.py has what sources share.
2. tokenizer.py turns text into ids, a long one in parts (long_texts.py); tokenizer_training.py
   (with unigram.py) trains it, roles.py names its special tokens, pieces.py interprets its pieces.
3. items.py makes items of text pairs, documents.py (with corruption.py) of windows of documents,
   labelled.py (with label_layout.py) of labelled texts; mixed_items.py mixes sets of items.
4. packing.py plans the rows of a batch and fills its arrays.
5. batches.py iterates over batches, from any position and with worker processes.
   train/sharding.py then puts each batch on the devices.
"""
