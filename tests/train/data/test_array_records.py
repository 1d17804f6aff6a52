"""Records read by ranges of bytes = those that array_record writes, wherever blocks end."""

import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data import array_records

# Around a block, of 65,536 bytes, and any.
SIZES = st.one_of(st.integers(0, 300), st.integers(65_380, 65_560), st.integers(0, 200_000))


def write(path, records):
  writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
  for record in records:
    writer.write(record)
  writer.close()
  return array_records.find_records(path)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, max_size=20), seed=st.integers(0, 250))
def test_records_are_those_written(tmp_path_factory, sizes, seed):
  path = tmp_path_factory.mktemp("records") / "of.array_record"
  records = [bytes((seed + i) % 251 for i in range(size)) for size in sizes]
  places = write(path, records)
  reader = array_records.RangeReader(path, places)
  assert reader.read(range(len(records))) == records


def test_what_is_no_record_is_refused(tmp_path):
  path = tmp_path / "of.array_record"
  places = write(path, [b"first" * 30_000, b"second"])
  content = path.read_bytes()
  path.write_bytes(content[:50_000])  # cut
  with pytest.raises(ValueError, match="are not one uncompressed record"):
    array_records.RangeReader(path, places).read([0])
  with pytest.raises(ValueError, match="the file is cut"):
    array_records.RangeReader(path, places).read([1])
  path.write_bytes(bytes(len(content)))  # blanked
  with pytest.raises(ValueError, match="are not one uncompressed record"):
    array_records.RangeReader(path, places).read([1])
