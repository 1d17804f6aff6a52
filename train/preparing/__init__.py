"""Writes prepared corpora (train/data/token_corpus.py) by an Apache Beam pipeline.

1. corpus.py decides what is written and in which order, and writes the manifest at the end.
2. job.py writes one file of records; duplicates.py finds duplicates; workers need no jax for them.
3. pipeline.py runs them by Beam; progress.py reports how far they are.
"""
