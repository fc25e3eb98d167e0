"""A Hugging Face hub on this machine, as far as its client uses it for a model.

Answers as the real one does: repositories, commits of files, downloads by revision.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer:
    """One repository, made by the client; a context manager.

    Attributes:
      address: of the server.
      repository: its name, once it was made.
      files: {name: bytes} of the newest version.
      commits: their names, oldest first.
      tokens: what clients authorised themselves with when they wrote.
      broken: answer everything with an error of the server.
    """

    def __init__(self):
        self.repository = None
        self.files, self.commits, self.tokens = {}, [], set()
        self.broken = False
        self.versions = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Stops answering."""
        self.server.shutdown()
        self.server.server_close()

    def commit(self, files):
        """Adds a version and returns its name."""
        self.files = {**self.files, **files}
        name = hashlib.sha1(str(len(self.commits)).encode()).hexdigest()
        self.commits.append(name)
        self.versions[name] = self.files
        return name

    def version(self, revision):
        """Returns (commit, files) of a revision, None if there is none."""
        if revision == "main" and self.commits:
            return self.commits[-1], self.files
        files = self.versions.get(revision)
        return None if files is None else (revision, files)


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *unused):
            pass

        def answer(self, status, content=b"", **headers):
            if not isinstance(content, bytes):
                content = json.dumps(content).encode()
                headers["Content-Type"] = "application/json"
            self.send_response(status)
            headers["Content-Length"] = len(content)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def missing(self, code):
            self.answer(404, {"error": code}, X_Error_Code=code)

        def body(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_POST(self):
            body = self.body()
            if hub.broken:
                return self.answer(400, {"error": "the hub is out of order"})
            hub.tokens.add(self.headers["Authorization"])
            if self.path == "/api/repos/create":
                fields = json.loads(body)
                if hub.repository is None:
                    hub.repository = f"{fields['organization']}/{fields['name']}"
                    hub.commit({".gitattributes": b""})
                return self.answer(200, {"url": f"{hub.address}/{hub.repository}"})
            if self.path == "/api/validate-yaml":  # of the model card
                return self.answer(200, {"errors": [], "warnings": []})
            if f"/api/models/{hub.repository}/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self.answer(200, {"files": files})
            if f"/api/models/{hub.repository}/commit/" in self.path:
                lines = [json.loads(line) for line in body.splitlines()]
                name = hub.commit(
                    {
                        x["value"]["path"]: base64.b64decode(x["value"]["content"])
                        for x in lines
                        if x["key"] == "file"
                    }
                )
                url = f"{hub.address}/{hub.repository}/commit/{name}"
                return self.answer(
                    200, {"success": True, "commitOid": name, "commitUrl": url}
                )
            return self.missing("RepoNotFound")

        def do_GET(self):
            path = self.path.partition("?")[0]
            repository = re.escape(hub.repository or "-")
            if hub.broken:
                return self.answer(400, {"error": "the hub is out of order"})
            if found := re.fullmatch(
                rf"/api/models/{repository}/(revision|tree)/(\w+)", path
            ):
                version = hub.version(found[2])
                if version is None:
                    return self.missing("RevisionNotFound")
                name, files = version
                entries = [
                    {"type": "file", "path": p, "size": len(x), "oid": _oid(x)}
                    for p, x in files.items()
                ]
                if found[1] == "tree":
                    return self.answer(200, entries)
                siblings = [{"rfilename": e["path"]} for e in entries]
                return self.answer(
                    200,
                    {"id": hub.repository, "sha": name, "siblings": siblings}
                    | {"private": False, "tags": [], "downloads": 0, "likes": 0},
                )
            if found := re.fullmatch(rf"/api/models/{repository}", path):
                self.path = f"{path}/revision/main"
                return self.do_GET()
            if found := re.fullmatch(rf"/{repository}/resolve/(\w+)/(.+)", path):
                version = hub.version(found[1])
                if version is None:
                    return self.missing("RevisionNotFound")
                name, files = version
                if found[2] not in files:
                    return self.missing("EntryNotFound")
                content = files[found[2]]
                return self.answer(
                    200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=name
                )
            return self.missing("RepoNotFound")

        do_HEAD = do_GET

    return Handler


def _oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
