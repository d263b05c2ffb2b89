"""A small Hugging Face Hub on loopback, over real HTTP, in memory: enough to create, push, load and list."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


REPO = r"(?P<repo>[^/]+/[^/]+?)"


class FakeHub:
    """`with FakeHub() as hub: subprocess.run(..., env=os.environ | hub.environment(cache))`.

    `hub.files("model", "org/name")` are the newest contents of a repository, `hub.unknown` the requests it could not
    answer. `hub.faults` says what goes wrong: for paths in which a regular expression is found, an HTTP status is the
    answer, or `gated`; `hang up` closes the connection without one, `drop` in the middle of it, `truncate` sends half
    as if it were all.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], list[tuple[str, dict[str, tuple[bytes, bool]]]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.faults: dict[str, int | str] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables that send every Hugging Face library here; they are read when the libraries are imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_TOKEN": "hf_fake",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def files(self, kind: str, repo: str) -> dict[str, bytes]:
        commits = self.repos.get((kind, repo), [])
        return {path: content for path, (content, _) in commits[-1][1].items()} if commits else {}


def _oid(content: bytes, lfs: bool) -> str:
    if lfs:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    _cut: str | None = None

    def log_message(self, *_: Any) -> None:
        pass

    # ------------------------------------------------------------------------------------------------- replies

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        half = self._cut == "truncate" and self.command != "HEAD"
        self.send_header("Content-Length", str(len(body) // 2 if half else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self._cut else body)
            self.close_connection = self._cut == "drop"  # an answer that looks whole leaves the connection open

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(404, b"{}", headers)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _commit(
        self, kind: str, repo: str, revision: str = "main"
    ) -> tuple[str, dict[str, tuple[bytes, bool]]] | None:
        """The commit and files of a revision, `main` or a commit; if there is none, answers so and returns `None`."""
        commits = self.hub.repos.get((kind, repo))
        if commits is None:
            self._missing("RepoNotFound")
            return None
        if revision == "main":
            return commits[-1] if commits else ("0" * 40, {})
        found = next((commit for commit in commits if commit[0] == revision), None)
        if found is None:
            self._missing("RevisionNotFound")
        return found

    def _failed(self) -> bool:
        """Whether a fault was met, and answered as it says."""
        path = unquote(urlparse(self.path).path)
        fault = next((fault for pattern, fault in self.hub.faults.items() if re.search(pattern, path)), None)
        self._cut = fault if fault in ("drop", "truncate") else None
        if isinstance(fault, int):
            self._send(fault, b'{"error": "as asked for"}', {"Content-Type": "application/json"})
        elif fault == "gated":
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif fault == "hang up":
            self.close_connection = True
        return isinstance(fault, int) or fault in ("gated", "hang up")

    # ------------------------------------------------------------------------------------------------- requests

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._failed():
            return None
        path = unquote(urlparse(self.path).path)
        if path == "/api/whoami-v2":
            token = {"accessToken": {"role": "write"}}
            return self._json({"type": "user", "name": "org", "orgs": [], "auth": token})
        if found := re.fullmatch(rf"(?P<datasets>/datasets)?/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            kind = "dataset" if found["datasets"] else "model"
            return self._resolve(kind, found["repo"], found["revision"], found["file"])
        if found := re.fullmatch(
            rf"/api/(?P<kind>model|dataset)s/{REPO}/tree/(?P<revision>[^/]+)(/(?P<dir>.*))?", path
        ):
            return self._tree(found["kind"], found["repo"], found["revision"], found["dir"] or "")
        if found := re.fullmatch(rf"/api/(?P<kind>model|dataset)s/{REPO}(/revision/(?P<revision>[^/]+))?", path):
            return self._info(found["kind"], found["repo"], found["revision"] or "main")
        self.hub.unknown.append(f"{self.command} {self.path}")
        return self._missing("EntryNotFound")

    def do_PUT(self) -> None:
        content = self._body()
        self.hub.blobs[self.path.rsplit("/", 1)[1]] = content
        self._send(200, b"")

    def do_POST(self) -> None:
        path, body = unquote(urlparse(self.path).path), self._body()
        if self._failed():
            return None
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"(?P<datasets>/datasets)?/.+\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if found := re.fullmatch(rf"/api/(?P<kind>model|dataset)s/{REPO}/preupload/[^/]+", path):
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".parquet", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self._json({"files": modes})
        if found := re.fullmatch(rf"/api/(?P<kind>model|dataset)s/{REPO}/commit/[^/]+", path):
            return self._store(found["kind"], found["repo"], body)
        if found := re.fullmatch(rf"/api/(?P<kind>model|dataset)s/{REPO}/paths-info/(?P<revision>[^/]+)", path):
            return self._paths(found["kind"], found["repo"], found["revision"], body)
        self.hub.unknown.append(f"{self.command} {self.path}")
        return self._missing("EntryNotFound")

    # -------------------------------------------------------------------------------------------------- actions

    def _create(self, request: dict[str, Any]) -> None:
        kind, name = request.get("type") or "model", request["name"]
        repo = f"{request['organization']}/{name}" if request.get("organization") else name
        self.hub.repos.setdefault((kind, repo), [])
        self._json({"url": f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"})

    def _batch(self, request: dict[str, Any]) -> None:
        objects = []
        for item in request["objects"]:
            known = item["oid"] in self.hub.blobs
            upload = {"upload": {"href": f"{self.hub.url}/upload/{item['oid']}"}}
            objects.append(item | ({} if known else {"actions": upload}))
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, kind: str, repo: str, body: bytes) -> None:
        current = self._commit(kind, repo)
        if current is None:
            return None
        files = dict(current[1])
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = (self.hub.blobs[value["oid"]], True)
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = hashlib.sha1(body + current[0].encode()).hexdigest()
        self.hub.repos[kind, repo].append((commit, files))
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _info(self, kind: str, repo: str, revision: str) -> None:
        current = self._commit(kind, repo, revision)
        if current is None:
            return None
        time = "2026-01-01T00:00:00.000Z"
        self._json(
            {
                "_id": "0",
                "id": repo,
                "sha": current[0],
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "lastModified": time,
                "createdAt": time,
                "siblings": [{"rfilename": path} for path in current[1]],
            }
        )

    def _entry(self, path: str, content: bytes, lfs: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _oid(content, False)}
        if lfs:
            entry["lfs"] = {"oid": _oid(content, True), "size": len(content), "pointerSize": 134}
        return entry

    def _tree(self, kind: str, repo: str, revision: str, folder: str) -> None:
        current = self._commit(kind, repo, revision)
        if current is None:
            return None
        recursive = "recursive=true" in self.path.lower()
        entries: dict[str, dict[str, Any]] = {}
        for path, (content, lfs) in current[1].items():
            if folder and not path.startswith(f"{folder}/"):
                continue
            inner = path[len(folder) + 1 :] if folder else path
            if "/" in inner:
                parent = f"{folder}/{inner.split('/')[0]}" if folder else inner.split("/")[0]
                entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": "0" * 40}
            if recursive or "/" not in inner:
                entries[path] = self._entry(path, content, lfs)
        if folder and not entries:
            return self._missing("EntryNotFound", current[0])
        return self._json(list(entries.values()))

    def _paths(self, kind: str, repo: str, revision: str, body: bytes) -> None:
        current = self._commit(kind, repo, revision)
        if current is None:
            return None
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else re.findall(r"paths=([^&]+)", unquote(text))
        self._json([self._entry(path, *current[1][path]) for path in wanted if path in current[1]])

    def _resolve(self, kind: str, repo: str, revision: str, path: str) -> None:
        current = self._commit(kind, repo, revision)
        if current is None:
            return None
        if path not in current[1]:
            return self._missing("EntryNotFound", current[0])
        content, lfs = current[1][path]
        headers = {"X-Repo-Commit": current[0], "ETag": f'"{_oid(content, lfs)}"', "Accept-Ranges": "bytes"}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(found[1]), int(found[2] or len(content) - 1)
            part = content[start : end + 1]
            return self._send(206, part, headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"})
        return self._send(200, content, headers)
