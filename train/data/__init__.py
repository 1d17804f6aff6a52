"""Turns files into batches, without jax. A batch passes through these files:

1. sources.py opens a split by name: texts.py (documents), sentences.py (CoNLL), questions.py
   (SQuAD), files.py (parallel text, TSV, JSON lines), parquet.py, arrow.py, prepared.py (TFDS),
   token_corpus.py (what train.prepare has written), gettext_catalogs.py or scan.py; combined.py
   makes one of others. source.py defines both kinds, those that are read by index and those that
   are read shard by shard: chunks.py and rows.py find shards in text, row_groups.py in Parquet.
   reading.py reads lines, stored.py keeps examples on disk, bad_records.py counts broken ones.
2. tokenizer.py turns text into ids, a long one in parts (long_texts.py); tokenizer_training.py
   (with unigram.py) trains it on a sample (samples.py), roles.py names its special tokens,
   pieces.py interprets its pieces.
3. items.py makes items of text pairs, documents.py (with corruption.py) of windows of documents,
   labelled.py (with label_layout.py) of labelled texts; mixed_items.py mixes sets of items.
4. packing.py plans the rows of a batch and fills its arrays.
5. batches.py iterates over batches of data whose lengths are known, streamed_batches.py over those
   of streamed data, from any position and with worker processes (workers.py): streams.py reads the
   items of a virtual stream, weaving.py packs them into rows.
   train/sharding.py then puts each batch on the devices.
"""
