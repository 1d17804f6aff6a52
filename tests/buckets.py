"""Servers of buckets on loopback: Google's by gcp-storage-emulator, Amazon's by moto.

The emulator lacks what TensorStore and a lock need: the generation of an object in its answers, and
conditions on it in requests. Here it has both, and can be slow, broken or closed to a caller.
"""

import argparse
import contextlib
import functools
import http.server
import io
import os
import re
import threading
import time
import urllib.parse

BUCKET = "bucket"


class Google:
  """Google's storage, in memory, with an empty bucket."""

  prefix = f"gs://{BUCKET}"

  def __init__(self, port: int = 0):
    from gcp_storage_emulator import server, storage
    from gcp_storage_emulator.handlers import buckets

    self.delay, self.broken, self.denied = 0.0, False, False  # what it does to each request
    self.breaks_at = ""  # the part of a path that breaks it
    self.requests, self.lock = [], threading.Lock()
    store = storage.Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, store)
    handler = functools.partial(_handler(server, self), store)
    self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    self.server.daemon_threads = True
    self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
    threading.Thread(target=self.server.serve_forever, daemon=True).start()

  @property
  def environment(self) -> dict[str, str]:
    return dict(
      STORAGE_EMULATOR_HOST=self.address,
      TENSORSTORE_GCS_HTTP_URL=self.address,
      GOOGLE_AUTH_TOKEN_FOR_TESTING="token",
      FSSPEC_GS_TOKEN="anon",
      FSSPEC_GCS_TOKEN="anon",
      GOOGLE_CLOUD_PROJECT="project",
      NO_GCE_CHECK="true",
    )

  def close(self) -> None:
    self.server.shutdown()
    self.server.server_close()


def _handler(server, google: Google):
  from gcp_storage_emulator import exceptions

  class Handler(server.RequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is written in two parts: 40 ms each

    def handle_one_request(self):
      self.generation = 0
      # A client that goes away in the middle of an answer is none of the server's troubles.
      with contextlib.suppress(ConnectionError):
        super().handle_one_request()

    def answer(self, method):
      google.requests.append((method, self.path))
      body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
      time.sleep(google.delay)
      google.broken |= bool(google.breaks_at) and google.breaks_at in self.path
      if google.broken:
        self.close_connection = True
        return
      if google.denied:
        self.refuse(403, b'{"error": {"code": 403, "message": "Forbidden: no storage.objects"}}')
        return
      connection, self.rfile = self.rfile, io.BytesIO(body)
      with google.lock:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query))
        here = self.generation = self.current(query.get("name"), body)
        if int(query.get("ifGenerationMatch", here)) != here:
          self.refuse(412)
        elif int(query.get("ifGenerationNotMatch", -1)) == here:
          self.refuse(304 if method == "GET" else 412)
        else:
          server.Router(self).handle(method)
      self.rfile = connection

    def current(self, name, body):
      """Returns the generation of the object that a request is of, 0 if there is none."""
      path = urllib.parse.urlparse(self.path).path
      name = urllib.parse.unquote(path.partition(f"/b/{BUCKET}/o/")[2]) or name
      if not name and (match := re.search(rb'"name": "([^"]*)"', body[:1000])):
        name = match[1].decode()
      try:
        return int(self.storage.get_file_obj(BUCKET, name)["generation"]) if name else 0
      except exceptions.NotFound:
        return 0

    def refuse(self, status, content=b""):
      self.send_response(status)
      self.send_header("Content-Length", str(len(content)))
      self.end_headers()
      self.wfile.write(content)

    def end_headers(self):
      if self.generation and self.command == "GET":
        self.send_header("x-goog-generation", str(self.generation))
      super().end_headers()

    def do_GET(self):
      self.answer("GET")

    def do_POST(self):
      self.answer("POST")

    def do_PUT(self):
      self.answer("PUT")

    def do_DELETE(self):
      self.answer("DELETE")

    def log_message(self, *_):
      pass

  return Handler


class Amazon:
  """Amazon's storage, in memory, with an empty bucket."""

  prefix = f"s3://{BUCKET}"

  def __init__(self, port: int = 0):
    import boto3
    from moto.server import ThreadedMotoServer

    self.server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    self.server.start()
    host, port = self.server.get_host_and_port()
    self.address = f"http://{host}:{port}"
    keys = dict(aws_access_key_id="key", aws_secret_access_key="secret")
    client = boto3.client("s3", endpoint_url=self.address, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=BUCKET)

  @property
  def environment(self) -> dict[str, str]:
    return dict(
      AWS_ENDPOINT_URL=self.address,
      AWS_ACCESS_KEY_ID="key",
      AWS_SECRET_ACCESS_KEY="secret",
      AWS_DEFAULT_REGION="us-east-1",
      AWS_CONFIG_FILE=os.devnull,
      AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    )

  def close(self) -> None:
    self.server.stop()


if __name__ == "__main__":
  parser = argparse.ArgumentParser()
  parser.add_argument("kind", choices=("gs", "s3"))
  parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
  arguments = parser.parse_args()
  bucket = dict(gs=Google, s3=Amazon)[arguments.kind]()
  bucket.delay = arguments.delay
  for name, value in bucket.environment.items():
    print(f"export {name}={value}", flush=True)
  threading.Event().wait()
