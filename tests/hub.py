"""A server on loopback that speaks the protocol of the Hugging Face Hub, as far as reading goes."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from helpers import environment


class Hub:
    """Repositories by name, each with revisions: commit → files by name; `branches`: name of a branch → commit.

    asked: the requests that came, as (method, path).
    """

    def __init__(self, home):
        self.commits, self.branches, self.asked, self.gated = {}, {}, [], set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                pass

            def do_HEAD(self):
                self.answer()

            def do_GET(self):
                self.answer()

            def answer(self):
                path = unquote(self.path.partition("?")[0])
                hub.asked.append((self.command, path))
                self.send(*hub.find(path.strip("/").split("/")))

            def send(self, code, body, headers):
                self.send_response(code)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def env(self, **more):
        """Variables for a process that asks this server."""
        return environment(**{**self.variables, **more})

    def push(self, repo, folder):
        """All files of a folder as the next commit of the main branch; gives the commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        sums = json.dumps([(name, hashlib.sha1(content).hexdigest()) for name, content in files.items()])
        commit = hashlib.sha1((repo + sums).encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        self.branches.setdefault(repo, {})["main"] = commit
        return commit

    def find(self, parts):
        """Code, body and headers of the answer to a path."""
        api = parts[:2] == ["api", "models"]
        repo, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
        if repo not in self.commits:
            return 401, b"", {"X-Error-Code": "RepoNotFound"}
        if repo in self.gated:
            return 403, b"", {"X-Error-Code": "GatedRepo"}
        revision = rest[1] if len(rest) > 1 else "main"
        commit = self.branches[repo].get(revision, revision)
        files = self.commits[repo].get(commit)
        if files is None:
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        if api:
            said = {
                "id": repo,
                "modelId": repo,
                "sha": commit,
                "private": False,
                "tags": [],
                "downloads": 0,
                "siblings": [{"rfilename": name} for name in files],
            }
            return 200, json.dumps(said).encode(), {"Content-Type": "application/json"}
        name = "/".join(rest[2:])
        if name not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        etag = hashlib.sha256(files[name]).hexdigest()
        return 200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": commit}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
