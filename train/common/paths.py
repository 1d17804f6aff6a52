"""Opens files on disks and in buckets; no other module looks at what kind of path it has."""

import base64
import glob as globbing
import hashlib
import io
import os
import pathlib
import re
import shutil
import types
from collections.abc import Iterator

from train.common import buckets
from train.common.errors import UserError

READ = 1 << 18  # bytes of a request


class BucketPath(pathlib.PurePosixPath):
  """A path in a bucket with those methods of pathlib.Path that runs use.

  A bucket has no folders: a folder is there as long as a file is in it, and nothing is renamed.
  """

  def __str__(self):
    return super().__str__().replace(":/", "://", 1)

  __fspath__ = __str__  # `pathlib` has its own in some versions

  @property
  def system(self):
    """Returns the fsspec file system of the path."""
    return buckets.file_system(self.parts[0].removesuffix(":"))

  def kind(self) -> str | None:
    """Returns "file", "directory" or None."""
    try:
      return self.system.info(str(self))["type"]
    except FileNotFoundError:
      return None

  def exists(self) -> bool:
    return self.kind() is not None

  def is_file(self) -> bool:
    return self.kind() == "file"

  def is_dir(self) -> bool:
    return self.kind() == "directory"

  def is_symlink(self) -> bool:
    return False

  def stat(self) -> types.SimpleNamespace:
    """Returns the size and the time of the last change of a file."""
    size, time = self.system.info(str(self))["size"], self.system.modified(str(self)).timestamp()
    return types.SimpleNamespace(st_size=size, st_mtime=time, st_mtime_ns=round(1e9 * time))

  def expanduser(self) -> "BucketPath":
    return self

  def resolve(self) -> "BucketPath":
    return self

  def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
    """Does nothing: the first file makes the folder."""

  def iterdir(self) -> Iterator["BucketPath"]:
    return (self / name.rpartition("/")[2] for name in self.system.ls(str(self), detail=False))

  def glob(self, pattern: str) -> Iterator["BucketPath"]:
    return (
      type(self)(self.parts[0] + "//" + name) for name in self.system.glob(f"{self}/{pattern}")
    )

  def rglob(self, pattern: str) -> Iterator["BucketPath"]:
    return self.glob(f"**/{pattern}")

  def open(self, mode: str = "r", **text):
    file = self.system.open(str(self), mode, **text)
    return io.BufferedReader(file) if mode == "rb" else file  # fsspec's has no readline(size)

  def read_bytes(self) -> bytes:
    return self.system.cat_file(str(self))

  def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
    return self.read_bytes().decode(encoding, errors)

  def write_bytes(self, content: bytes, mode: str = "overwrite") -> None:
    """Writes a file whole or not; with mode "create" raises FileExistsError where it exists."""
    self.system.pipe_file(str(self), content, mode=mode)

  def write_text(self, text: str, encoding: str = "utf-8") -> None:
    self.write_bytes(text.encode(encoding))

  def unlink(self, missing_ok: bool = False) -> None:
    try:
      self.system.rm_file(str(self))
    except FileNotFoundError:
      if not missing_ok:
        raise


Path = pathlib.Path | BucketPath


def is_bucket(path: str | os.PathLike) -> bool:
  """Returns whether a path lies in a bucket."""
  return os.fspath(path).startswith(buckets.PREFIXES)


def of(path: str | os.PathLike) -> Path:
  """Returns the path, with the home folder in place of "~"; raises UserError for a bucket without
  a name, and for a URL of another kind."""
  scheme, is_url, rest = os.fspath(path).partition("://")
  if not is_bucket(path):
    if is_url and scheme.isalnum():
      known = " and ".join(buckets.PREFIXES)
      raise UserError(f"{path}: only {known} can be read beside disks: copy it there first")
    return pathlib.Path(path).expanduser()
  if not re.match(r"[^/*?\[]+(/|$)", rest):
    raise UserError(f"{path} names no bucket: write {scheme}://BUCKET/FOLDER")
  return BucketPath(path)


def size(path: Path) -> int:
  """Returns the number of bytes of a file."""
  return path.stat().st_size


def read_range(path: Path, start: int, stop: int) -> bytes:
  """Returns the bytes of a file from `start` up to `stop`."""
  if is_bucket(path):
    return path.system.cat_file(str(path), start=start, end=stop)
  with open(path, "rb") as file:
    file.seek(start)
    return file.read(stop - start)


def glob(pattern: Path) -> Iterator[Path]:
  """Returns the paths that match a pattern, in which ** stands for any number of folders."""
  if is_bucket(pattern):
    first = pattern.parents[-3]  # the bucket: gs: is its parent
    return first.glob(str(pattern.relative_to(first)))
  return map(pathlib.Path, globbing.glob(str(pattern), recursive=True))


def contents(folder: Path, digests: bool = True) -> dict[str, tuple[int, str]]:
  """Returns path in the folder -> size and, with `digests`, a digest of each file.

  The digest is SHA-256 on a disk. A bucket has its own, which takes no reading: "md5:..." or, of an
  object that was written in parts, "etag:...".
  """
  if is_bucket(folder):
    found = folder.system.find(str(folder), detail=True)
    start = len(str(folder).partition("://")[2]) + 1
    return {
      name[start:]: (info["size"], _bucket_digest(info) if digests else "")
      for name, info in sorted(found.items())
    }
  return {
    path.relative_to(folder).as_posix(): (size(path), digest(path) if digests else "")
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def digest(path: Path, like: str = "") -> str:
  """Returns a digest that is made by reading the file, of the kind of `like`: MD5 or SHA-256; ""
  where only the bucket that made it knows how."""
  kind = like.partition(":")[0] if ":" in like else "sha256"
  if kind == "etag":
    return ""
  with path.open("rb") as file:
    found = hashlib.file_digest(file, kind).hexdigest()
  return f"{kind}:{found}" if ":" in like else found


def _bucket_digest(info) -> str:
  """Returns the digest in a listing. S3's ETag is no MD5 where the bucket encrypts."""
  if md5 := info.get("md5Hash"):
    return f"md5:{base64.b64decode(md5).hex()}"
  return "etag:" + str(info.get("ETag") or info.get("etag")).strip('"')


def remove(folder: Path) -> None:
  """Removes a folder with all that is in it."""
  if not is_bucket(folder):
    shutil.rmtree(folder)
  elif folder.exists():
    folder.system.rm(str(folder), recursive=True)


def move(folder: Path, target: Path) -> None:
  """Moves a folder; in a bucket file by file, so that a kill may leave it in both places."""
  if is_bucket(folder):
    for name in contents(folder, digests=False):
      folder.system.cp_file(str(folder / name), str(target / name))
    remove(folder)
  else:
    folder.rename(target)
