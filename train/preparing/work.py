"""Defines the function that Beam's workers run; no other module imports it without Beam."""

from collections.abc import Callable

import apache_beam as beam

from train.preparing import pipeline


class Work(beam.DoFn):
  """Calls a function with a number; its UserError stays in the folder (pipeline.call)."""

  def __init__(self, task: Callable[[int], None], folder: str):
    self.task, self.folder = task, folder

  def process(self, element):
    pipeline.call(self.task, element, self.folder)
